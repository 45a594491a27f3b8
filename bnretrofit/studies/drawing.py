"""What a study found -> its plots."""

import io
import math
from typing import Any

from bnretrofit.studies.findings import Finding, Plot, Series

__all__ = ["drawn"]

COLOURS = ("tab:orange", "tab:blue", "tab:green", "tab:gray")
FEW_POINTS = 12
BESIDE = 0.12


def drawn(finding: Finding) -> str:
    """Draw lines of means, with least and most as bands or bars; what is not finite is left out.

    Args:
        finding: What was found; the same gives the same text.

    Returns:
        An SVG document.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {"svg.hashsalt": finding.study, "axes.spines.top": False, "axes.spines.right": False}
    with rc_context(settings):
        figure = Figure(figsize=(6.0 * len(finding.plots), 4.2), layout="constrained")
        for number, plot in enumerate(finding.plots, 1):
            _draw(figure.add_subplot(1, len(finding.plots), number), plot)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _draw(axes: Any, plot: Plot) -> None:
    for number, series in enumerate(plot.series):
        # Side by side where they stand at the same place.
        aside = BESIDE * (number - (len(plot.series) - 1) / 2) if plot.axes.names else None
        _line(axes, series, COLOURS[number % len(COLOURS)], aside)
    of, values = plot.axes, [y.mean for series in plot.series for y in series.y]
    axes.set_xlabel(of.x)
    axes.set_ylabel(of.y)
    if of.log_x:
        axes.set_xscale("log")
    if of.log_y and any(0 < value < math.inf for value in values):
        axes.set_yscale("log", nonpositive="clip")
    if of.names:
        axes.set_xticks(range(len(of.names)), of.names)
        axes.set_xlim(-0.5, len(of.names) - 0.5)
    if len(plot.series) > 1:
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))


def _line(axes: Any, series: Series, colour: str, aside: float | None) -> None:
    points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(y.most)]
    places = [x for x, _ in points]
    middle, low, high = ([getattr(y, name) for _, y in points] for name in ("mean", "least", "most"))
    if aside is not None:
        places = [place + aside for place in places]
        below = [a - b for a, b in zip(middle, low, strict=True)]
        above = [b - a for a, b in zip(middle, high, strict=True)]
        axes.errorbar(places, middle, (below, above), fmt="o", color=colour, label=series.label, capsize=4)
        return
    axes.plot(places, middle, color=colour, label=series.label, marker="o" if len(places) < FEW_POINTS else None)
    axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
