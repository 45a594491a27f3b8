"""The outcomes of a study's runs, by what they have in common."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bnretrofit.studies.findings import Spread, spread_of
from bnretrofit.studies.images import Images
from bnretrofit.studies.networks import USUAL, Shape
from bnretrofit.studies.recipes import Budget, Outcome, Recipe

__all__ = ["NAMES", "Best", "Results"]

NAMES = {False: "without norms", True: "with norms"}


@dataclass(frozen=True, slots=True)
class Best:
    """The best of several learning rates, by the mean accuracy over seeds.

    Attributes:
        rate: That one.
        outcomes: Of its runs, seed by seed.
        top1: Their accuracies.
    """

    rate: float
    outcomes: tuple[Outcome, ...]
    top1: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        """Of the accuracies."""
        return spread_of(self.top1)


@dataclass(frozen=True, slots=True)
class Results:
    """What the runs of a study came to.

    Attributes:
        budget: Of each run.
        seeds: That every run was made with.
        outcomes: By recipe.
        images: That were learnt from.
    """

    budget: Budget
    seeds: Sequence[int]
    outcomes: Mapping[Recipe, Outcome]
    images: Images

    def of(self, recipe: Recipe) -> tuple[Outcome, ...]:
        """The outcomes of a recipe, seed by seed."""
        return tuple(self.outcomes[replace(recipe, seed=seed)] for seed in self.seeds)

    def at(self, norms: bool, rate: float, shape: Shape = USUAL, watch: str = "") -> tuple[Outcome, ...]:  # noqa: FBT001 - the first thing that one asks for
        """The outcomes of the usual recipe with these choices, seed by seed."""
        return self.of(Recipe(self.budget, norms, rate, 0, shape, watch=watch))

    def accuracies(self, outcomes: Sequence[Outcome]) -> tuple[float, ...]:
        """On the images to judge with; a run that diverged, or knows less, is worth as much as guessing."""
        floor = self.images.guessing
        return tuple(floor if outcome.top1 is None else max(outcome.top1, floor) for outcome in outcomes)

    def has_learnt(self, top1: float) -> bool:
        """Whether an accuracy is more than guessing: beyond three standard deviations of it."""
        floor = self.images.guessing
        return top1 > floor + 3 * math.sqrt(floor * (1 - floor) / len(self.images.test[1]))

    def better(self, plain: Sequence[float], norms: Sequence[float]) -> bool:
        """Whether in each seed the network with norms has learnt, and is better."""
        return all(self.has_learnt(b) and b > a for a, b in zip(plain, norms, strict=True))

    def best(self, norms: bool, rates: Sequence[float], shape: Shape = USUAL) -> Best:  # noqa: FBT001 - as above
        """The rate with the highest mean accuracy, of the usual recipe."""
        return self.best_of(Recipe(self.budget, norms, 0.0, 0, shape), rates)

    def best_of(self, recipe: Recipe, rates: Sequence[float]) -> Best:
        """The same of a recipe, whatever its own rate."""
        found = [(rate, self.of(replace(recipe, rate=rate))) for rate in rates]
        kinds = [Best(rate, outcomes, self.accuracies(outcomes)) for rate, outcomes in found]
        return max(kinds, key=lambda best: best.spread.mean)
