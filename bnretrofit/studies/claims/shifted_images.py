"""Norms adapt to images that are not like those of training."""

import statistics
from collections.abc import Sequence

from bnretrofit.studies.claims.comparing import accuracies_plot
from bnretrofit.studies.findings import Finding, Spread, percent, spread_of
from bnretrofit.studies.recipes import Budget, Outcome, Recipe
from bnretrofit.studies.results import NAMES, Best, Results
from bnretrofit.studies.shifting import SHIFTS
from bnretrofit.studies.study import FEW_RATES, Study

__all__ = ["STUDY"]

WATCH = "shifted images"
TRAINED, MEASURED = 0, 1
"""Statistics of training, and those that were measured on the shifted images."""


def recipes(budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """Both networks, at each of two rates."""
    return [
        Recipe(budget, norms, rate, seed, watch=WATCH)
        for seed in seeds
        for norms in (False, True)
        for rate in FEW_RATES
    ]


def find(study: Study, results: Results) -> Finding:
    """Accuracy on shifted images, with statistics of training and with those of the shifted images."""
    plain, norms = (
        results.best_of(Recipe(results.budget, norms, 0.0, 0, watch=WATCH), FEW_RATES) for norms in (False, True)
    )
    floor = results.images.guessing
    without = [_over_shifts(outcome, TRAINED, floor) for outcome in plain.outcomes]
    before, after = (
        [_over_shifts(outcome, which, floor) for outcome in norms.outcomes] for which in (TRAINED, MEASURED)
    )
    answer = (
        f"Over the three shifts the accuracy with norms goes from {percent(spread_of(before))} % to "
        f"{percent(spread_of(after))} % when statistics are measured on the shifted images; without norms it is "
        f"{percent(spread_of(without))} %. On images as they are the same takes it from "
        f"{percent(_at(norms, SHIFTS[0], TRAINED, floor))} % to {percent(_at(norms, SHIFTS[0], MEASURED, floor))} %."
    )
    columns = {
        f"{NAMES[False]}, at {plain.rate:g}": (plain, TRAINED),
        f"{NAMES[True]}, at {norms.rate:g}": (norms, TRAINED),
        "the same, statistics of the shifted images": (norms, MEASURED),
    }
    figures = {label: [_at(best, name, which, floor) for name in SHIFTS] for label, (best, which) in columns.items()}
    rows = [(name, *(percent(each[number]) for each in figures.values())) for number, name in enumerate(SHIFTS)]
    plot = accuracies_plot("images", SHIFTS, figures)
    return study.found(answer, ("images", *figures), rows, plot, held=results.better(before, after))


def _top1(outcome: Outcome, name: str, which: int, floor: float) -> float:
    """As much as guessing for a run that diverged."""
    seen = outcome.watched.get(name)
    return floor if seen is None else max(seen[which], floor)


def _over_shifts(outcome: Outcome, which: int, floor: float) -> float:
    return statistics.fmean(_top1(outcome, name, which, floor) for name in SHIFTS[1:])


def _at(best: Best, name: str, which: int, floor: float) -> Spread:
    return spread_of([_top1(outcome, name, which, floor) for outcome in best.outcomes])


STUDY = Study(
    "shifted-images",
    "adapt to images unlike those of training, once statistics are measured on them",
    "The networks, each at its better rate, are judged on images that are brighter, blurred or noisy, which they have "
    "not learnt from: with the statistics of training, and with statistics measured on 256 of the very images that are "
    "judged, without labels. The claim holds if that raises the mean accuracy over the three shifts.",
    recipes,
    find,
)
