"""matplotlib's drawings -> SVG within a page, in the page's own colours, light or dark.

A drawing is made in colours that stand for others, and each is replaced by the page's custom property of that meaning.
"""

import io
import re
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

__all__ = ["Chart", "chart"]

_COLOURS = {
    "#000001": "var(--ink)",
    "#000002": "var(--muted)",
    "#000003": "var(--line)",
    "#000004": "var(--series-1)",
    "#000005": "var(--series-2)",
}
INK, MUTED, LINE, FIRST, SECOND = _COLOURS
_REFERENCE = re.compile(r'((?<=\bid=")|(?<=href="#)|(?<=url\(#))')

Chart = Markup
"""An SVG element, ready for a page."""


def chart(draw: Callable[[Any], object], name: str, description: str) -> Chart:
    """Make a drawing.

    Args:
        draw: Draws on the axes that it is given.
        name: Of the drawing: its own among those of a page.
        description: Read out instead of it.

    Returns:
        An SVG element without a size of its own.
    """
    # Not pyplot: a library must not choose how its caller's figures are shown.
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "axes.prop_cycle": cycler(color=[FIRST, SECOND]),
        "axes.edgecolor": LINE,
        "axes.labelcolor": MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": LINE,
        "legend.frameon": False,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        draw(axes)
        text = io.StringIO()
        # Without date and version the same figures give the same page.
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return Markup(_in_page(text.getvalue(), name, description))  # noqa: S704 - matplotlib escapes what it is given


def _in_page(svg: str, name: str, description: str) -> str:
    body = svg[svg.index("<svg") :]
    opening, rest = body.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', opening)
    metadata = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
    # Names within an SVG are the whole page's.
    rest = _REFERENCE.sub(f"{name}-", metadata.sub("", rest))
    for colour, meaning in _COLOURS.items():
        rest = rest.replace(colour, meaning)
    label = Markup.escape(description)
    links = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {view.group() if view else ""} {links} role="img" aria-label="{label}">{rest}'
