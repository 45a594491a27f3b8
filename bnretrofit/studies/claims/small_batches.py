"""Norms need batches that are not small."""

from collections.abc import Sequence
from dataclasses import replace

from bnretrofit.studies.findings import Axes, Finding, Plot, Series, Spread, percent
from bnretrofit.studies.recipes import Budget, Recipe
from bnretrofit.studies.results import NAMES, Results
from bnretrofit.studies.study import AT_THE_BETTER, FEW_RATES, Study, grid

__all__ = ["STUDY"]

SHARES = (2, 4, 8, 16, 32, 64, 128)

LARGE, OF_AN_EPOCH = 256, 10
"""Images of a step, and how many such steps an epoch must have."""


def large_steps(budget: Budget) -> Budget:
    """As many images in all, in larger steps where there are enough for that."""
    if budget.learnt < OF_AN_EPOCH * LARGE:
        return budget
    steps = max(1, budget.steps * budget.batch_size // LARGE)
    return replace(budget, batch_size=LARGE, steps=steps, looks=min(budget.looks, steps))


def recipes(budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """Fewer and fewer images that share their statistics; and frozen statistics."""
    whole = grid(budget, seeds, FEW_RATES)
    with_norms = [recipe for recipe in whole if recipe.norms]
    shared = [replace(recipe, share=share) for share in SHARES if share < budget.batch_size for recipe in with_norms]
    return [*whole, *shared, *(replace(recipe, frozen=True) for recipe in with_norms)]


def find(study: Study, results: Results) -> Finding:
    """Accuracy by how many images share their statistics."""
    budget = results.budget
    shares = [share for share in SHARES if share < budget.batch_size]
    by_share = {share: results.best_of(Recipe(budget, True, 0, 0, share=share), FEW_RATES) for share in shares}
    whole, plain = results.best(True, FEW_RATES), results.best(False, FEW_RATES)
    frozen = results.best_of(Recipe(budget, True, 0, 0, frozen=True), FEW_RATES)
    smallest = by_share[shares[0]]
    held = results.better(smallest.top1, whole.top1)
    answer = (
        f"With statistics of {shares[0]} images the accuracy is {percent(smallest.spread)} %, with those of all "
        f"{budget.batch_size} of a step {percent(whole.spread)} %, with frozen ones {percent(frozen.spread)} %, "
        f"without norms {percent(plain.spread)} %, after {budget.steps} steps."
    )
    named = [
        *((f"batch statistics of {share} images", best) for share, best in by_share.items()),
        (f"synchronised: of all {budget.batch_size} images of a step", whole),
        ("frozen", frozen),
        (NAMES[False], plain),
    ]
    rows = [(label, f"{percent(best.spread)} at {best.rate:g}") for label, best in named]
    places = tuple(float(share) for share in (*shares, budget.batch_size))
    lines = {
        "batch statistics": [best.spread for best in (*by_share.values(), whole)],
        "frozen": [frozen.spread] * len(places),
        NAMES[False]: [plain.spread] * len(places),
    }
    series = tuple(_line(label, places, y) for label, y in lines.items())
    axes = Axes("images that share their statistics", "accuracy", log_x=True)
    return study.found(answer, ("statistics", "accuracy"), rows, Plot(axes, series), held=held)


def _line(label: str, places: tuple[float, ...], y: Sequence[Spread]) -> Series:
    return Series(label, places, tuple(y))


STUDY = Study(
    "small-batches",
    "lose by small batches",
    "Every step has the same images, 256 where there are enough to learn from; fewer and fewer of them share their "
    "statistics, as on ranks with a few images each, and the running statistics are those of the step. Synchronised "
    "statistics are those of all images of the step, so they are the last line of the batch statistics; frozen ones "
    f"stay those that the norms were inserted with. All are trained {AT_THE_BETTER}. The claim holds if the accuracy "
    "with the smallest batches is lower than with the whole step's.",
    recipes,
    find,
    lasting=large_steps,
)
