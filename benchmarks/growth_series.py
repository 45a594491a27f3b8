"""A verb along one quantity, as it was measured: costs, the floor's, their powers, and which phase grows how."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.growth_fit import Fit, fitted
from benchmarks.growth_points import SERIES, Point
from benchmarks.growth_records import Known
from benchmarks.measuring import ratios

__all__ = ["OTHER", "Series", "all_series"]

OTHER = "other"
"""The phase of what is in none."""


@dataclass(frozen=True, slots=True)
class Series:
    """What is known of a verb along a quantity: two points or more, from the smallest.

    Attributes:
        verb: Which.
        quantity: The name of a `Point`'s attribute.
        points: Where it was measured.
        lines: What was measured there.
    """

    verb: str
    quantity: str
    points: tuple[Point, ...]
    lines: tuple[Mapping[str, Any], ...]

    @property
    def sizes(self) -> list[int]:
        """The quantity at each point."""
        return [int(getattr(point, self.quantity)) for point in self.points]

    @property
    def costs(self) -> list[float]:
        """Seconds of processor time, of the quickest round: what disturbs a round only adds to it."""
        return [min(line["cpu"]) for line in self.lines]

    @property
    def floors(self) -> list[float]:
        """Seconds of processor time that cannot be avoided."""
        return [min(line["floor_cpu"]) for line in self.lines]

    @property
    def fit(self) -> Fit:
        """The power of the cost."""
        return fitted(self.sizes, self.costs)

    @property
    def floor_fit(self) -> Fit:
        """The power of the floor."""
        return fitted(self.sizes, self.floors)

    def over_floor(self, clock: str = "cpu") -> dict[str, float]:
        """Least and median of the ratios at the largest point, by processor time or by the clock (`wall`)."""
        return ratios(self.lines[-1][clock], self.lines[-1][f"floor_{clock}"])

    def shares(self) -> dict[str, float]:
        """Each phase's share of the cost at the largest point, the largest share first."""
        found = {phase: seconds / self.costs[-1] for phase, seconds in self.phases(-1).items()}
        return dict(sorted(found.items(), key=lambda each: -each[1]))

    def last_exponent(self, phase: str) -> float | None:
        """How a phase grows between the last two points; None where it took no time before."""
        before, after = (self.phases(number).get(phase, 0.0) for number in (-2, -1))
        return None if min(before, after) <= 0 else fitted(self.sizes[-2:], (before, after)).exponent

    def phases(self, number: int) -> dict[str, float]:
        """Seconds by phase at a point, in its quickest round."""
        found: dict[str, float] = self.lines[number]["phases"]
        return {**found, OTHER: max(self.costs[number] - sum(found.values()), 0.0)}


def all_series(known: Known) -> list[Series]:
    """Every series of which two points or more are known."""
    found = []
    for (verb, quantity), wanted in SERIES.items():
        points = tuple(point for point in wanted if point in known)
        if len(points) > 1:
            found.append(Series(verb, quantity, points, tuple(known[point] for point in points)))
    return found
