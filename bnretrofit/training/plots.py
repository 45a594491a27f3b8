"""A run's history -> a picture of it."""

import math
from pathlib import Path
from typing import Any

from bnretrofit.training.history import History

__all__ = ["PANELS", "draw_panel", "plot_history"]

PANELS = (
    ("loss", ("train_loss", "val_loss")),
    ("top-1 accuracy", ("val_top1",)),
    ("scale of the norms", ("scale_median", "scale_max")),
)
"""What is drawn of a run: a title, and the fields of an epoch that belong under it."""


def plot_history(history: History, path: Path) -> None:
    """Draw loss, accuracy and the norms' scales by epoch.

    Args:
        history: Of a run.
        path: The PNG to write; one that is there is replaced once the new one is whole.
    """
    # Not pyplot: a library must not choose how its caller's figures are shown.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes: Any = figure.subplots(1, len(PANELS))
    for axis, (title, names) in zip(axes, PANELS, strict=True):
        draw_panel(axis, history, title, names)
    made = path.with_name(f".{path.name}.new")
    # Without the library's version in it, the same history gives the same bytes.
    figure.savefig(made, dpi=120, format="png", metadata={"Software": None})
    made.replace(path)


def draw_panel(axis: Any, history: History, title: str, names: tuple[str, ...]) -> None:
    """Draw some fields of each epoch on a figure's axes; scales on a logarithmic one."""
    for name in names:
        values = [getattr(epoch, name) for epoch in history.epochs]
        if any(value is not None for value in values):
            numbers = [math.nan if value is None else value for value in values]
            axis.plot([epoch.epoch for epoch in history.epochs], numbers, marker=".", label=name.replace("_", " "))
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_title(title)
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend()
        if "scale_max" in names:
            axis.set_yscale("log")
