"""What a study found -> its plot."""

import io
from typing import Any

from bnretrofit.studies.findings import Axes, Finding, Series

__all__ = ["drawn"]

COLOURS = ("tab:orange", "tab:blue", "tab:green", "tab:gray")
LEAST_Y = 1e-12
"""What a logarithmic axis shows nought as."""


def drawn(finding: Finding) -> str:
    """Draw lines of means, with least and most as bands or bars.

    Args:
        finding: What was found; the same gives the same text.

    Returns:
        An SVG document.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {"svg.hashsalt": finding.study, "axes.spines.top": False, "axes.spines.right": False}
    with rc_context(settings):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for number, series in enumerate(finding.series):
            _line(axes, series, COLOURS[number % len(COLOURS)], finding.axes)
        _label(axes, finding.axes)
        if len(finding.series) > 1:
            axes.legend(frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _line(axes: Any, series: Series, colour: str, of: Axes) -> None:
    least = LEAST_Y if of.log_y else -float("inf")
    middle, low, high = ([max(getattr(y, name), least) for y in series.y] for name in ("mean", "least", "most"))
    if of.names:
        below = [a - b for a, b in zip(middle, low, strict=True)]
        above = [b - a for a, b in zip(middle, high, strict=True)]
        axes.errorbar(series.x, middle, (below, above), fmt="o", color=colour, label=series.label, capsize=4)
        return
    axes.plot(series.x, middle, color=colour, label=series.label, marker="o" if len(series.x) < 12 else None)
    axes.fill_between(series.x, low, high, color=colour, alpha=0.2, linewidth=0)


def _label(axes: Any, of: Axes) -> None:
    axes.set_xlabel(of.x)
    axes.set_ylabel(of.y)
    if of.log_x:
        axes.set_xscale("log")
    if of.log_y:
        axes.set_yscale("log")
    if of.names:
        axes.set_xticks(range(len(of.names)), of.names)
        axes.set_xlim(-0.5, len(of.names) - 0.5)
