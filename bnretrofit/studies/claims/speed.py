"""Norms make training faster."""

import math
from collections.abc import Sequence

from bnretrofit.studies.findings import Axes, Finding, Plot, Series, in_seeds, seed_by_seed, spread_of
from bnretrofit.studies.recipes import Budget, Outcome, Recipe
from bnretrofit.studies.results import NAMES, Best, Results
from bnretrofit.studies.study import RATES, Study, grid

__all__ = ["STUDY"]

SHARE = 0.9
"""Of the best accuracy that the network without norms comes to."""


def recipes(budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """Every rate."""
    return grid(budget, seeds, RATES)


def find(study: Study, results: Results) -> Finding:
    """Steps, and seconds, that either network takes to nine tenths of the plain one's accuracy."""
    best = {norms: results.best(norms, RATES) for norms in (False, True)}
    target = SHARE * best[False].spread.mean
    reached = {norms: [_reached(outcome, target) for outcome in best[norms].outcomes] for norms in (False, True)}
    fewer = [[b[which] < a[which] for a, b in zip(reached[False], reached[True], strict=True)] for which in (0, 1)]
    held = all(fewer[0])
    told = [[seed_by_seed([each[which] for each in reached[norms]]) for which in (0, 1)] for norms in (False, True)]
    answer = (
        f"To an accuracy of {100 * target:.1f} %, steps, seed by seed: {told[0][0]} without norms, {told[1][0]} with "
        f"norms; processor seconds: {told[0][1]} and {told[1][1]}. Norms take fewer steps {in_seeds(fewer[0])} and "
        f"fewer seconds {in_seeds(fewer[1])}; accuracy was looked at every {_every(best[False])} steps."
    )
    if not results.has_learnt(target):
        held, answer = False, f"Nine tenths of what is learnt without norms is no more than guessing. {answer}"
    rows = [(f"{NAMES[norms]}, at {best[norms].rate:g}", *told[norms]) for norms in (False, True)]
    header = ("network", f"steps to {100 * target:.1f} %", "processor seconds")
    series = tuple(_curve(norms, best[norms]) for norms in (False, True))
    return study.found(answer, header, rows, Plot(Axes("step", "accuracy"), series), held=held)


def _reached(outcome: Outcome, target: float) -> tuple[float, float]:
    """Steps and seconds at the first look at which the accuracy was there; infinite for never."""
    return next(((float(step), seconds) for step, seconds, top1 in outcome.curve if top1 >= target), (math.inf,) * 2)


def _every(best: Best) -> int:
    return next((outcome.curve[0][0] for outcome in best.outcomes if outcome.curve), 0)


def _curve(norms: bool, best: Best) -> Series:  # noqa: FBT001 - which of the two networks it is
    looks = zip(*(outcome.curve for outcome in best.outcomes), strict=False)
    points = [(look[0][0], spread_of([top1 for _, _, top1 in look])) for look in looks]
    label = f"{NAMES[norms]}, at {best.rate:g}"
    return Series(label, tuple(float(step) for step, _ in points), tuple(spread for _, spread in points))


STUDY = Study(
    "speed",
    "make training faster",
    "Each network is trained at the rate that is best for it in the end. Counted are the steps to nine tenths of the "
    "accuracy that the network without norms comes to, as precisely as accuracy is looked at, and the processor's "
    "seconds until then. Norms are judged with their running statistics, which lag behind early on. The claim holds if "
    "it takes fewer steps.",
    recipes,
    find,
)
