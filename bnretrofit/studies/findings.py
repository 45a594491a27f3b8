"""What a study found: a verdict with its figure, a table and a plot, as data."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bnretrofit.comparison import finite

__all__ = ["Axes", "Finding", "Plot", "Series", "Spread", "in_seeds", "percent", "seed_by_seed", "spread_of", "times"]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over several seeds.

    Attributes:
        mean: Of all of them.
        least: Of them.
        most: Of them.
    """

    mean: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a plot.

    Attributes:
        label: What it is.
        x: Where its points are.
        y: A figure at each.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[Spread, ...]


@dataclass(frozen=True, slots=True)
class Axes:
    """What a plot shows.

    Attributes:
        x: Label of the horizontal axis.
        y: Label of the vertical one.
        log_x: Whether that is logarithmic.
        log_y: The same of the vertical one.
        names: Of the places 0, 1 … on the horizontal axis, where these are no numbers.
    """

    x: str
    y: str
    log_x: bool = False
    log_y: bool = False
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """One of a finding's plots.

    Attributes:
        axes: What it shows.
        series: Its lines.
    """

    axes: Axes
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a study found.

    Attributes:
        study: Its name.
        claim: What is said of norms.
        held: Whether it held, in every seed.
        answer: The same as a sentence with its figures.
        header: Of the table.
        rows: Of the table, in text.
        plots: Side by side.
    """

    study: str
    claim: str
    held: bool
    answer: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    plots: tuple[Plot, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON document; a figure that is not finite is its name as a string."""
        document: dict[str, Any] = finite(dataclasses.asdict(self))
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Finding":
        """What `to_json` wrote."""
        rows = tuple(tuple(row) for row in document["rows"])
        plots = tuple(_plot(plot) for plot in document["plots"])
        return cls(**document | {"header": tuple(document["header"]), "rows": rows, "plots": plots})


def _plot(document: dict[str, Any]) -> Plot:
    series = tuple(
        Series(line["label"], tuple(line["x"]), tuple(Spread(*map(float, y.values())) for y in line["y"]))
        for line in document["series"]
    )
    return Plot(Axes(**document["axes"] | {"names": tuple(document["axes"]["names"])}), series)


def spread_of(values: Sequence[float]) -> Spread:
    """Mean, least and most of some figures, at least one."""
    least, most = min(values), max(values)
    # Rounding may put the mean of equal figures beside them.
    return Spread(min(max(statistics.fmean(values), least), most), least, most)


def percent(spread: Spread) -> str:
    """Shares, as "78.9 (78.1 to 79.6)"."""
    return f"{100 * spread.mean:.1f} ({100 * spread.least:.1f} to {100 * spread.most:.1f})"


def times(spread: Spread) -> str:
    """Figures of any size, as "1.23 (1.1 to 1.4)"."""
    return f"{spread.mean:.3g} ({spread.least:.3g} to {spread.most:.3g})"


def in_seeds(each: Sequence[bool]) -> str:
    """In how many seeds something was so: "in 2 of 3 seeds"."""
    return f"in {sum(each)} of {len(each)} seeds"


def seed_by_seed(values: Sequence[float], unit: str = "") -> str:
    """Figures as they are, one for each seed."""
    return ", ".join(f"{value:.3g}{unit}" if math.isfinite(value) else "never" for value in values)
