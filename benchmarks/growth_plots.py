"""A plot per verb: processor time and the floor's by each quantity, with the powers that were fitted."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from benchmarks.growth_fit import Fit
from benchmarks.growth_series import Series

__all__ = ["LABELS", "draw"]

LABELS = {
    "depth": "convolutions",
    "width": "channels of each",
    "images": "images",
    "batch_size": "images per batch",
    "ranks": "ranks",
}
COLUMNS = 3


def draw(found: Sequence[Series], path: Path) -> None:
    """One verb's series beside each other, on logarithmic axes: a power is a straight line, its exponent the slope."""
    columns = min(COLUMNS, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.1 * rows), layout="constrained")
    axes: list[Any] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(found) :]:
        axis.remove()
    for axis, series in zip(axes, found, strict=False):
        line(axis, series.sizes, series.costs, series.fit, series.verb, "tab:blue")
        line(axis, series.sizes, series.floors, series.floor_fit, "floor", "tab:grey")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(series.sizes, [str(size) for size in series.sizes])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_minor_formatter(NullFormatter())
        # Whole decades: a flat line looks flat.
        every = [*series.floors, *series.costs]
        axis.set_ylim(10 ** math.floor(math.log10(min(every) / 1.1)), 10 ** math.ceil(math.log10(max(every) * 1.1)))
        axis.set_xlabel(LABELS[series.quantity])
        axis.set_ylabel("seconds of processor time")
        axis.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
        axis.grid(alpha=0.3)
    # The same lines give the same bytes.
    with rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})


def line(axis: Any, sizes: list[int], costs: list[float], fit: Fit, name: str, colour: str) -> None:
    axis.plot(sizes, costs, color=colour, marker="o", markersize=4, linestyle="none")
    words = f"{name}: {fit.exponent:.2f}" if fit.straight else f"{name}: no line"
    style = "-" if fit.straight else ":"
    axis.plot(sizes, [fit.at(size) for size in sizes], color=colour, linestyle=style, linewidth=1, label=words)
