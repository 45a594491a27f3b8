"""A power of a quantity, fitted to what was measured: its exponent, and whether there is one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["BEND", "STRAIGHT", "Fit", "fitted"]

STRAIGHT, BEND = 1.15, 0.2
"""One exponent stands for all points if none is off the line by a larger factor than the first of these, and if that of
the last two points differs by no more than the second: what bends slowly is never far off."""


@dataclass(frozen=True, slots=True)
class Fit:
    """cost = factor * quantity ** exponent, by least squares of the logarithms.

    Attributes:
        exponent: The slope.
        factor: The cost at a quantity of 1.
        error: Standard error of the exponent; NaN of two points, which any line fits.
        off: The largest factor by which a point lies off the line, above or below.
        last: The exponent between the last two points alone, where what grows fastest shows most.
    """

    exponent: float
    factor: float
    error: float
    off: float
    last: float

    @property
    def straight(self) -> bool:
        """Whether one exponent stands for all points: those of a fixed cost, or of noise, are no line."""
        return self.off <= STRAIGHT and abs(self.last - self.exponent) <= BEND

    def at(self, quantity: float) -> float:
        """The cost by the line."""
        return float(self.factor * quantity**self.exponent)


def fitted(quantities: Sequence[float], costs: Sequence[float]) -> Fit:
    """Fit a power.

    Args:
        quantities: Two or more, rising and above zero.
        costs: Above zero.
    """
    x, y = np.log(np.asarray(quantities, float)), np.log(np.asarray(costs, float))
    slope, intercept = (float(value) for value in np.polyfit(x, y, 1))
    rest = y - (slope * x + intercept)
    freedom = len(x) - 2
    variance = float(rest @ rest) / freedom if freedom else math.nan
    error = math.sqrt(variance / float(((x - x.mean()) ** 2).sum()))
    last = float((y[-1] - y[-2]) / (x[-1] - x[-2]))
    return Fit(slope, math.exp(intercept), error, math.exp(float(np.abs(rest).max())), last)
