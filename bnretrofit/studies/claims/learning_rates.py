"""Norms allow higher learning rates."""

from collections.abc import Sequence

from bnretrofit.studies.findings import Axes, Finding, Series, percent, spread_of
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
    # Seed by seed, so that the verdict is every seed's; the table's tick is of the mean.
    limits = [top1 - WITHIN for top1 in best.top1]
    largest = {
        norms: [
            max((rate for rate in RATES if results.accuracies(runs[norms, rate])[seed] >= limit), default=0.0)
            for seed, limit in enumerate(limits)
        ]
        for norms in (False, True)
    }
    held = all(with_norms > without for without, with_norms in zip(largest[False], largest[True], strict=True))
    words = {norms: ", ".join(f"{rate:g}" for rate in largest[norms]) for norms in (False, True)}
    answer = f"The largest rate that trains is {words[False]} without norms and {words[True]} with norms, seed by seed."
    rows = tuple((f"{rate:g}", *(_cell(results, runs[norms, rate]) for norms in (False, True))) for rate in RATES)
    series = tuple(
        Series(NAMES[norms], RATES, tuple(spread_of(results.accuracies(runs[norms, rate])) for rate in RATES))
        for norms in (False, True)
    )
    header = ("learning rate", *NAMES.values())
    return Finding(
        study.name, study.claim, held, answer, header, rows, Axes("learning rate", "accuracy", log_x=True), series
    )


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
