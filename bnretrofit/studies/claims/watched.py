"""What was watched while networks learnt: without norms, with norms at the same rate, with norms at a higher one."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bnretrofit.studies.findings import Axes, Plot, Series, percent, spread_of
from bnretrofit.studies.recipes import Budget, Outcome, Recipe
from bnretrofit.studies.results import Results
from bnretrofit.studies.study import FEW_RATES

__all__ = ["Kind", "final", "kinds", "over_run", "plot_of", "watching"]

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


def over_run(
    outcome: Outcome, names: Callable[[str], bool], of_run: Callable[[Sequence[float]], float] = statistics.fmean
) -> float:
    """Of what was watched under these names the mean over the run, or another figure; of several names their mean.

    Infinite for a run that diverged: what was seen before says nothing of it.
    """
    found = [of_run(values) for name, values in outcome.watched.items() if names(name) and values]
    return statistics.fmean(found) if found and outcome.top1 is not None else math.inf


def plot_of(found: Sequence[Kind], names: Callable[[str], bool], y: str) -> Plot:
    """What was watched under these names, by step."""
    return Plot(Axes("step", y, log_y=True), tuple(_curve(kind, names) for kind in found))


def _curve(kind: Kind, names: Callable[[str], bool]) -> Series:
    """Mean over the names; as far as the shortest run has it, those left out that saw nothing."""
    runs = [outcome.watched for outcome in kind.outcomes if outcome.watched.get("step")]
    steps = min((run["step"] for run in runs), key=len, default=())
    points = [
        spread_of([statistics.fmean(values[at] for name, values in run.items() if names(name)) for run in runs])
        for at in range(len(steps))
    ]
    return Series(kind.label, steps, tuple(points))


def final(kind: Kind, results: Results) -> str:
    """Accuracy in the end: a network that learns nothing moves little."""
    return percent(spread_of(results.accuracies(kind.outcomes)))
