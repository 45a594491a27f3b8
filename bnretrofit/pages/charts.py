"""What a page shows as charts: statistics by layer, drift by batch size, errors by layer, a run by epoch."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bnretrofit.findings import BatchDrift, LayerError
from bnretrofit.pages.figures import FIRST, MUTED, Chart, chart
from bnretrofit.pages.layer_table import Row
from bnretrofit.pages.statistics import Figures
from bnretrofit.training import History
from bnretrofit.training.plots import PANELS, draw_panel

__all__ = ["drift_chart", "error_chart", "history_charts", "statistics_charts"]


def statistics_charts(rows: Sequence[Row]) -> tuple[tuple[str, Chart], ...]:
    """A chart each of mean, variance and scale by layer, with its title; none of what is not known."""
    found = []
    for title, attribute, logarithmic in (
        ("mean of the channels", "mean", False),
        ("variance of the channels", "variance", True),
        ("scale of the norms", "scale", True),
    ):
        known = {
            row.number: figures
            for row in rows
            if row.statistics is not None and (figures := getattr(row.statistics, attribute)) is not None
        }
        if known:
            draw = partial(_draw_band, known, logarithmic)
            text = f"{title}, by layer number: median and range over the channels; the figures are in the table"
            found.append((title, chart(draw, f"statistics-{attribute}", text)))
    return tuple(found)


def _draw_band(known: dict[int, Figures], logarithmic: bool, axes: Any) -> None:  # noqa: FBT001 - bound by partial
    numbers = list(known)
    least, median, largest = ([getattr(figures, name) for figures in known.values()] for name in Figures.__slots__)
    axes.vlines(numbers, least, largest, color=FIRST, alpha=0.35, linewidth=_width(len(numbers)))
    axes.plot(numbers, median, ".", color=FIRST, markersize=_width(len(numbers)) + 1.5)
    if logarithmic and all(math.isfinite(value) and value > 0 for value in (*median, *largest)):
        axes.set_yscale("log", nonpositive="clip")
        # Scales that are all 1 but for rounding are to look like it.
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.8 * min(median)), max(high, 1.25 * max(median)))
    _finish(axes, "layer")


def _width(count: int) -> float:
    """Of a line among so many, in points: they must not run into one another."""
    return max(0.8, min(4.0, 160 / count))


def drift_chart(drift: Sequence[BatchDrift]) -> Chart:
    """How far batch statistics move the outputs, by batch size."""

    def draw(axes: Any) -> None:
        sizes = [each.batch_size for each in drift]
        axes.plot(sizes, [each.relative_rms for each in drift], marker="o", color=FIRST)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_ylim(bottom=0)
        _finish(axes, "batch size")

    told = "; ".join(str(each) for each in drift)
    return chart(draw, "drift", f"with batch statistics the outputs move by {told}")


def error_chart(layers: Sequence[LayerError]) -> Chart | None:
    """The error's path through the network, beside what rounding alone does; None where all errors are nought."""
    errors = [layer.max_rel_error for layer in layers]
    if all(error == 0 for error in errors):
        return None

    def draw(axes: Any) -> None:
        numbers = range(1, len(layers) + 1)
        floors = [math.nan if layer.floor is None else layer.floor for layer in layers]
        axes.plot(numbers, floors, color=MUTED, label="rounding alone")
        axes.plot(numbers, [error if error > 0 else math.nan for error in errors], ".", color=FIRST, label="error")
        axes.set_yscale("log")
        axes.legend()
        _finish(axes, "layer, as compared")

    return chart(draw, "errors", "relative error at each layer, beside rounding alone; the figures are in the table")


def history_charts(history: History) -> tuple[tuple[str, Chart], ...]:
    """The curves of a run, each with its title."""
    found = []
    for number, (title, names) in enumerate(PANELS):
        if any(getattr(epoch, name) is not None for epoch in history.epochs for name in names):
            draw: Callable[[Any], None] = partial(_draw_history, history, title, names)
            found.append((title, chart(draw, f"history-{number}", f"{title} by epoch; the figures are in the table")))
    return tuple(found)


def _draw_history(history: History, title: str, names: tuple[str, ...], axes: Any) -> None:
    draw_panel(axes, history, title, names)
    # The page says it above.
    axes.set_title("")


def _finish(axes: Any, label: str) -> None:
    axes.set_xlabel(label)
    axes.grid(alpha=0.5)
