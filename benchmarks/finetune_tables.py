"""Runs -> what they say: means and spreads by rate, the rates that train, the gap, and the steps to the plain best."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import TypeVar

from benchmarks.finetune_runs import NORMS, PLAIN, Conditions, Outcome, Run
from benchmarks.finetune_subjects import SUBJECTS

__all__ = ["Grid", "grids", "mean", "spread"]

WITHIN = 0.01
"""A rate trains if its mean accuracy is within so much of the plain network's best at the same budget."""
DIVERGED = "diverged"

Key = TypeVar("Key")
Values = dict[int, float | None]
"""Accuracy by seed; None for a run that diverged."""


@dataclass(frozen=True)
class Grid:
    """All runs of a network at a budget.

    Attributes:
        subject: The network.
        epochs: The budget.
        conditions: Of both networks.
        cells: Accuracy by seed, of (plain or retrofitted, rate).
        shorter: Of the retrofitted network at smaller budgets: accuracy by seed, of (steps, rate).
        steps: Of the budget.
        folded: (folded, unfolded) accuracy of each retrofitted run; None where the fold was refused.
    """

    subject: str
    epochs: int
    conditions: Conditions
    cells: dict[tuple[str, float], Values]
    shorter: dict[tuple[int, float], Values]
    steps: int
    folded: list[tuple[float | None, float]]

    @property
    def rates(self) -> list[float]:
        return sorted({rate for _, rate in self.cells})

    @property
    def seeds(self) -> int:
        """As many from 0 on decide as both networks have at some rate; what has fewer is shown, and decides nothing."""
        return min(
            max(consecutive(values) for (of, _), values in self.cells.items() if of == norms)
            for norms in (PLAIN, NORMS)
        )

    def decided(self, norms: str) -> list[float]:
        """The rates that all of these seeds were tried at."""
        return sorted(
            rate for (of, rate), values in self.cells.items() if of == norms and consecutive(values) >= self.seeds
        )

    def mean(self, values: Values) -> float:
        """Over the seeds that decide; a run that diverged counts as one that knows nothing."""
        return statistics.mean(values[seed] or 0.0 for seed in range(self.seeds))

    def best_rate(self, norms: str) -> float:
        """The rate of the highest mean accuracy."""
        return max(self.decided(norms), key=lambda rate: self.mean(self.cells[norms, rate]))

    @cached_property
    def plain_best(self) -> float:
        return self.mean(self.cells[PLAIN, self.best_rate(PLAIN)])

    def trains(self, norms: str, rate: float) -> bool:
        return rate in self.decided(norms) and self.mean(self.cells[norms, rate]) >= self.plain_best - WITHIN

    def largest_rate(self, norms: str) -> float | None:
        return max((rate for rate in self.rates if self.trains(norms, rate)), default=None)

    def bounded(self, norms: str) -> bool:
        """Whether higher rates were tried, and none of them trains, whatever the seeds came to that are not there."""
        largest = self.largest_rate(norms) or 0.0
        higher = [values for (of, rate), values in self.cells.items() if of == norms and rate > largest]
        return bool(higher) and not any(self._may_train(values) for values in higher)

    def _may_train(self, values: Values) -> bool:
        most = statistics.mean(values.get(seed, 1.0) or 0.0 for seed in range(self.seeds))
        return most >= self.plain_best - WITHIN

    def gaps(self) -> list[float]:
        """By seed, the retrofitted network's accuracy over the plain one's, each at its best rate."""
        plain, norms = (self.cells[of, self.best_rate(of)] for of in (PLAIN, NORMS))
        return [(norms[seed] or 0.0) - (plain[seed] or 0.0) for seed in range(self.seeds)]

    def steps_to_best(self) -> tuple[int, float, float] | None:
        """The fewest steps in which the retrofitted network is as good as the plain one's best; rate, accuracy."""
        budgets = {
            **self.shorter,
            **{(self.steps, rate): values for (of, rate), values in self.cells.items() if of == NORMS},
        }
        full = {key: values for key, values in budgets.items() if consecutive(values) >= self.seeds}
        enough = [(steps, rate) for (steps, rate), values in full.items() if self.mean(values) >= self.plain_best]
        if not enough:
            return None
        steps, rate = min(enough, key=lambda each: (each[0], -self.mean(budgets[each])))
        return steps, rate, self.mean(budgets[steps, rate])


def grids(made: Mapping[Run, Outcome]) -> list[Grid]:
    """The grids of which both networks have runs, in the order of networks and budgets."""
    usual = {
        run: outcome
        for run, outcome in made.items()
        if run.bn_stats == "batch" and run.batch_size == SUBJECTS[run.subject].batch_size
    }
    kinds = dict.fromkeys((run.subject, run.conditions, run.epochs) for run in usual if run.steps is None)
    found = []
    order = sorted(kinds, key=lambda kind: (kind[0], kind[1] != Conditions(), *map(str, kind[1]), kind[2]))
    for subject, conditions, epochs in order:
        here = {run: each for run, each in usual.items() if (run.subject, run.conditions) == (subject, conditions)}
        whole = {run: each for run, each in here.items() if (run.epochs, run.steps) == (epochs, None)}
        steps = max((outcome.get("steps", 0) for outcome in whole.values()), default=0)
        shorter = {
            run: outcome for run, outcome in here.items() if run.norms == NORMS and outcome.get("steps", steps) < steps
        }
        grid = Grid(
            subject,
            epochs,
            conditions,
            by_cell({run: (run.norms, run.rate) for run in whole}, whole),
            by_cell({run: (int(outcome["steps"]), run.rate) for run, outcome in shorter.items()}, shorter),
            steps,
            [(each["folded_top1"], each["top1"]) for each in whole.values() if "folded_top1" in each],
        )
        if {of for of, _ in grid.cells} == {PLAIN, NORMS} and grid.seeds:
            found.append(grid)
    return found


def by_cell(keys: Mapping[Run, Key], made: Mapping[Run, Outcome]) -> dict[Key, Values]:
    cells: dict[Key, Values] = {}
    for run, key in keys.items():
        cells.setdefault(key, {})[run.seed] = made[run]["top1"]
    return cells


def mean(values: Values) -> float:
    """A run that diverged counts as one that knows nothing."""
    return statistics.mean(0.0 if value is None else value for value in values.values())


def consecutive(values: Values) -> int:
    """How many seeds from 0 on there are."""
    return next(seed for seed in count() if seed not in values)


def spread(values: Values) -> str:
    """Mean, least and most in per cent; or how many diverged: a mean over the others would flatter."""
    finite = [100 * value for value in values.values() if value is not None]
    if len(finite) < len(values):
        return f"{DIVERGED} in {len(values) - len(finite)} of {len(values)}"
    ends = f" ({min(finite):.2f} to {max(finite):.2f})" if len(values) > 1 else " (one seed)"
    return f"{statistics.mean(finite):.2f}{ends}"
