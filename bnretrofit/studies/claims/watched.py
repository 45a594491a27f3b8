"""What was watched while networks learnt: without norms, with norms at the same rate, with norms at a higher one."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bnretrofit.studies.findings import Series, Spread, spread_of
from bnretrofit.studies.recipes import Budget, Outcome, Recipe
from bnretrofit.studies.results import Results
from bnretrofit.studies.study import FEW_RATES

__all__ = ["Kind", "curve_of", "kinds", "mean_of", "watching"]

LOW, HIGH = FEW_RATES


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the three.

    Attributes:
        label: What it is.
        outcomes: Of its runs, seed by seed.
    """

    label: str
    outcomes: tuple[Outcome, ...]


CHOICES = ((False, LOW), (True, LOW), (True, HIGH))


def watching(watch: str, budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """The runs of the three."""
    return [Recipe(budget, norms, rate, seed, watch=watch) for seed in seeds for norms, rate in CHOICES]


def kinds(watch: str, results: Results) -> list[Kind]:
    """The three."""
    return [
        Kind(f"{'with' if norms else 'without'} norms, at {rate:g}", results.at(norms, rate, watch=watch))
        for norms, rate in CHOICES
    ]


def mean_of(outcome: Outcome, names: Callable[[str], bool]) -> float:
    """Mean over the whole run of what was watched under these names; infinite where it broke off before that."""
    found = [value for name, values in outcome.watched.items() if names(name) for value in values]
    return statistics.fmean(found) if found else math.inf


def curve_of(kind: Kind, names: Callable[[str], bool], budget: Budget) -> Series:
    """What was watched under these names by step, their mean; as far as the shortest run has it."""
    runs = [[values for name, values in outcome.watched.items() if names(name)] for outcome in kind.outcomes]
    length = min((len(values) for run in runs for values in run), default=0)
    points: list[Spread] = [
        spread_of([statistics.fmean(values[at] for values in run) for run in runs]) for at in range(length)
    ]
    return Series(kind.label, tuple(budget.steps * at / max(length, 1) for at in range(length)), tuple(points))
