"""Norms allow higher learning rates."""

from collections.abc import Sequence

from bnretrofit.studies.findings import Axes, Finding, Plot, Series, percent, spread_of
from bnretrofit.studies.recipes import Budget, Outcome, Recipe
from bnretrofit.studies.results import NAMES, Results
from bnretrofit.studies.study import RATES, Study, grid

__all__ = ["STUDY"]

WITHIN = 0.02
"""A rate trains if its accuracy is that near to the best one of the network without norms."""


def recipes(budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """Every rate."""
    return grid(budget, seeds, RATES)


def find(study: Study, results: Results) -> Finding:
    """The largest rate that trains, of either network."""
    best = results.best(False, RATES)
    runs = {(norms, rate): results.at(norms, rate) for norms in (False, True) for rate in RATES}
    largest = {norms: _largest(results, runs, norms, best.top1) for norms in (False, True)}
    held = all(b > a for a, b in zip(largest[False], largest[True], strict=True))
    told = [", ".join(f"{rate:g}" if rate else "none" for rate in largest[norms]) for norms in (False, True)]
    own = _largest(results, runs, True, results.best(True, RATES).top1)
    answer = (
        f"The largest rate that trains is {told[0]} without norms and {told[1]} with norms, seed by seed. Within two "
        f"points of their own best, networks with norms train up to {', '.join(f'{rate:g}' for rate in own)}."
    )
    if not all(map(results.has_learnt, best.top1)):
        held, answer = False, f"Without norms the network does not learn at any rate, so nothing can be told. {answer}"
    rows = [(f"{rate:g}", *(_cell(results, runs[norms, rate]) for norms in (False, True))) for rate in RATES]
    series = tuple(
        Series(name, RATES, tuple(spread_of(results.accuracies(runs[norms, rate])) for rate in RATES))
        for norms, name in NAMES.items()
    )
    plot = Plot(Axes("learning rate", "accuracy", log_x=True), series)
    return study.found(answer, ("learning rate", *NAMES.values()), rows, plot, held=held)


def _largest(
    results: Results,
    runs: dict[tuple[bool, float], tuple[Outcome, ...]],
    norms: bool,  # noqa: FBT001 - which of the two networks it is
    best: Sequence[float],
) -> list[float]:
    """Seed by seed, the largest rate whose accuracy is near the best; nought for none."""

    def trains(seed: int, rate: float) -> bool:
        top1 = runs[norms, rate][seed].top1
        return top1 is not None and results.has_learnt(top1) and top1 >= best[seed] - WITHIN

    return [max((rate for rate in RATES if trains(seed, rate)), default=0.0) for seed in range(len(best))]


def _cell(results: Results, outcomes: Sequence[Outcome]) -> str:
    diverged = sum(outcome.top1 is None for outcome in outcomes)
    if diverged:
        return f"diverged in {diverged} of {len(outcomes)}"
    return percent(spread_of(results.accuracies(outcomes)))


STUDY = Study(
    "learning-rates",
    "allow higher learning rates",
    "Both networks are trained at each rate. A rate trains if its accuracy is within two points of what the network "
    "without norms comes to at its best rate. The claim holds if the largest rate that trains is higher with norms.",
    recipes,
    find,
)
