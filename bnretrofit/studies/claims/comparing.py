"""Networks of several shapes, each at its better rate, with norms and without: what several claims compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnretrofit.studies.findings import Axes, Plot, Series, Spread, percent
from bnretrofit.studies.networks import Shape
from bnretrofit.studies.results import NAMES, Best, Results
from bnretrofit.studies.study import FEW_RATES

__all__ = ["Pair", "accuracies_plot", "accuracy_plot", "accuracy_rows", "by_seed", "pair", "pairs"]


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


def accuracies_plot(x: str, names: Sequence[str], figures: Mapping[str, Sequence[Spread]]) -> Plot:
    """Accuracies at named places, a line for each label."""
    places = tuple(float(number) for number in range(len(names)))
    series = tuple(Series(label, places, tuple(each)) for label, each in figures.items())
    return Plot(Axes(x, "accuracy", names=tuple(names)), series)


def _series(found: Sequence[Pair], x: Sequence[float] | None) -> tuple[Series, ...]:
    places = tuple(x) if x is not None else tuple(float(number) for number in range(len(found)))
    return tuple(
        Series(NAMES[norms], places, tuple(pair.of(norms).spread for pair in found)) for norms in (False, True)
    )


def accuracy_plot(found: Sequence[Pair], x: str, places: Sequence[float] | None = None, *, log: bool = False) -> Plot:
    """Accuracy of both networks, by numbers or by the labels."""
    names = () if places is not None else tuple(pair.label for pair in found)
    return Plot(Axes(x, "accuracy", log_x=log, names=names), _series(found, places))


def by_seed(found: Sequence[Pair], norms: bool) -> list[tuple[float, ...]]:  # noqa: FBT001 - as in `Pair.of`
    """For each seed the accuracy on every shape."""
    return list(zip(*(pair.of(norms).top1 for pair in found), strict=True))
