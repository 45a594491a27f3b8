"""Norms help with images that are not like those of training."""

import statistics
from collections.abc import Sequence

from bnretrofit.studies.claims.comparing import accuracy_axes
from bnretrofit.studies.claims.watched import Kind, kinds, watching
from bnretrofit.studies.findings import Finding, Series, Spread, percent, spread_of
from bnretrofit.studies.recipes import Budget, Outcome, Recipe
from bnretrofit.studies.results import Results
from bnretrofit.studies.shifting import SHIFTS
from bnretrofit.studies.study import Study

__all__ = ["STUDY"]

WATCH = "shifted images"


def recipes(budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """Three networks, watched."""
    return watching(WATCH, budget, seeds)


def find(study: Study, results: Results) -> Finding:
    """Accuracy on shifted images, with statistics of training and with those of the shifted images."""
    plain, *with_norms = kinds(WATCH, results)
    best = max(with_norms, key=lambda kind: statistics.fmean(_over_shifts(outcome, 1) for outcome in kind.outcomes))
    before = [_over_shifts(outcome, 0) for outcome in best.outcomes]
    after = [_over_shifts(outcome, 1) for outcome in best.outcomes]
    without = [_over_shifts(outcome, 0) for outcome in plain.outcomes]
    held = all(b > a for a, b in zip(before, after, strict=True))
    answer = (
        f"Over the three shifts the accuracy with norms goes from {percent(spread_of(before))} % to "
        f"{percent(spread_of(after))} % when statistics are measured on the shifted images; without norms it is "
        f"{percent(spread_of(without))} %."
    )
    columns: list[tuple[str, Kind, int]] = [
        (plain.label, plain, 0),
        (best.label, best, 0),
        (f"{best.label}, statistics of the shifted images", best, 1),
    ]
    rows = tuple((name, *(percent(_at(kind, name, which)) for _, kind, which in columns)) for name in SHIFTS)
    places = tuple(float(number) for number in range(len(SHIFTS)))
    series = tuple(
        Series(label, places, tuple(_at(kind, name, which) for name in SHIFTS)) for label, kind, which in columns
    )
    header = ("images", *(label for label, _, _ in columns))
    return Finding(study.name, study.claim, held, answer, header, rows, accuracy_axes("images", names=SHIFTS), series)


def _over_shifts(outcome: Outcome, which: int) -> float:
    return statistics.fmean(outcome.watched[name][which] for name in SHIFTS[1:]) if outcome.watched else 0.0


def _at(kind: Kind, name: str, which: int) -> Spread:
    return spread_of([outcome.watched[name][which] if outcome.watched else 0.0 for outcome in kind.outcomes])


STUDY = Study(
    "shifted-images",
    "help with images unlike those of training",
    "The networks are judged on images that are brighter, blurred or noisy, which they have not learnt from. Of those "
    "with norms, the one at the better rate; with the statistics of training, and with statistics that are measured on "
    "some 256 of the shifted images, without labels. The claim holds if that raises the mean accuracy over the three "
    "shifts.",
    recipes,
    find,
)
