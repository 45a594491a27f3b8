"""A page's content -> one HTML file that needs nothing else; a picture -> one SVG file.

What comes from a file of strangers is text: it is escaped wherever it stands, and a policy in the page itself forbids
every script but the page's own, and every connection.
"""

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bnretrofit.pages.charts import drift_chart, error_chart, history_charts, statistics_charts
from bnretrofit.pages.content import Page
from bnretrofit.pages.diagram import Node
from bnretrofit.pages.drawing import drawing_of
from bnretrofit.pages.layer_table import STATES

__all__ = ["page_html", "picture_svg"]

_PALETTE = re.compile(r":root \{([^}]*)\}")
_COLOUR = re.compile(r"--([\w-]+): (#\w+)")
_NAME = re.compile(r"var\(--([\w-]+)\)")


def page_html(page: Page) -> str:
    """The page, the same for the same content."""
    report = None if page.verified is None else page.verified.report
    script = _source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            drawing=drawing_of(page.nodes),
            states=STATES,
            report=report,
            error_chart=None if report is None or not report.layers else error_chart(report.layers),
            statistics=statistics_charts(page.rows),
            drift_chart=drift_chart(page.drift) if page.drift else None,
            history=() if page.history is None else history_charts(page.history),
            style=Markup(_source("page.css")),  # noqa: S704 - our own
            script=Markup(script),  # noqa: S704 - our own
            script_digest=digest,
        )
    )


def picture_svg(nodes: Sequence[Node], title: str) -> str:
    """The network's picture alone; a viewer that knows neither custom properties nor themes shows it in light."""
    style = Markup(_resolved(_source("picture.css")))  # noqa: S704 - our own
    drawing = drawing_of(nodes)
    return _environment().get_template("picture.svg").render(drawing=drawing, states=STATES, title=title, style=style)


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("bnretrofit.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    made.filters |= {"figure": _figure, "percent": _percent, "sortable": _sortable}
    return made


def _source(name: str) -> str:
    environment = _environment()
    if environment.loader is None:
        raise TypeError("no loader")
    return environment.loader.get_source(environment, name)[0]


def _resolved(style: str) -> str:
    """A style with its palettes' colours in the place of their names: the light ones first, then the dark ones."""
    palettes = [dict(_COLOUR.findall(block)) for block in _PALETTE.findall(style)]
    rules = style[style.index(".picture") :]
    light, dark = (_NAME.sub(lambda name, of=palette: of[name[1]], rules) for palette in palettes[:2])  # type: ignore[misc]
    return f"{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


def _printable(value: Any) -> Any:
    """A text with control characters written out: some of them no document may hold."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    kept = (each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in value)
    return "".join(kept)


def _figure(value: float | None) -> str:
    """A figure to three digits, with a true minus sign."""
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _sortable(value: float | None) -> str:
    """What a column is sorted by: empty for what has no place in an order."""
    if value is None or math.isnan(value):
        return ""
    # As JavaScript spells it.
    return repr(float(value)).replace("inf", "Infinity")
