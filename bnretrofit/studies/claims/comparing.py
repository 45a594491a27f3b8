"""Networks of several shapes, each at its better rate, with norms and without: what several claims compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnretrofit.studies.findings import Axes, Series, percent
from bnretrofit.studies.networks import Shape
from bnretrofit.studies.results import NAMES, Best, Results
from bnretrofit.studies.study import FEW_RATES

__all__ = ["Pair", "accuracy_axes", "accuracy_rows", "accuracy_series", "by_seed", "pair", "pairs"]


@dataclass(frozen=True, slots=True)
class Pair:
    """The same network twice.

    Attributes:
        label: What is particular about it.
        plain: Without norms, at its best rate.
        norms: With norms, at its best rate.
    """

    label: str
    plain: Best
    norms: Best

    def of(self, norms: bool) -> Best:  # noqa: FBT001 - which of the two is all that it asks
        """One of both."""
        return self.norms if norms else self.plain


def pairs(results: Results, shapes: Mapping[str, Shape]) -> list[Pair]:
    """For each shape both networks, each at the better one of `FEW_RATES`."""
    return [pair(results, label, shape, FEW_RATES) for label, shape in shapes.items()]


def pair(results: Results, label: str, shape: Shape, rates: Sequence[float]) -> Pair:
    """Both networks of a shape, each at its best rate."""
    return Pair(label, results.best(False, rates, shape), results.best(True, rates, shape))


def accuracy_rows(found: Sequence[Pair]) -> tuple[tuple[str, ...], ...]:
    """Label, and accuracy with the rate that was best, of either network."""
    return tuple((pair.label, _cell(pair.plain), _cell(pair.norms)) for pair in found)


def _cell(best: Best) -> str:
    return f"{percent(best.spread)} at {best.rate:g}"


def accuracy_series(found: Sequence[Pair], x: Sequence[float] | None = None) -> tuple[Series, ...]:
    """A line for either network; places are numbered where none are given."""
    places = tuple(x) if x is not None else tuple(float(number) for number in range(len(found)))
    return tuple(
        Series(NAMES[norms], places, tuple(pair.of(norms).spread for pair in found)) for norms in (False, True)
    )


def accuracy_axes(x: str, *, log: bool = False, names: Sequence[str] = ()) -> Axes:
    """Axes of such a plot."""
    return Axes(x, "accuracy", log_x=log, names=tuple(names))


def by_seed(found: Sequence[Pair], norms: bool) -> list[tuple[float, ...]]:  # noqa: FBT001 - as in `Pair.of`
    """For each seed the accuracy on every shape."""
    return list(zip(*(pair.of(norms).top1 for pair in found), strict=True))
