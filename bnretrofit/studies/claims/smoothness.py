"""Norms smooth the loss."""

import statistics
from collections.abc import Sequence

from bnretrofit.studies.claims.watched import final, kinds, over_run, plot_of, watching
from bnretrofit.studies.findings import Finding, in_seeds, spread_of, times
from bnretrofit.studies.recipes import Budget, Recipe
from bnretrofit.studies.results import Results
from bnretrofit.studies.study import Study

__all__ = ["STUDY"]

WATCH = "landscape"
FIGURES = ("loss", "gradient")


def recipes(budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """Three networks, watched."""
    return watching(WATCH, budget, seeds)


def find(study: Study, results: Results) -> Finding:
    """How far loss and gradient vary along a step."""
    found = kinds(WATCH, results)
    varied = [
        [[over_run(outcome, figure.__eq__, statistics.median) for outcome in kind.outcomes] for figure in FIGURES]
        for kind in found
    ]
    plain, same, _ = varied
    less = [[b < a for a, b in zip(plain[which], same[which], strict=True)] for which in (0, 1)]
    told = [[times(spread_of(each)) for each in both] for both in varied]
    answer = (
        f"Along a step the gradient moves by {told[0][1]} of its size without norms, by {told[1][1]} with norms at "
        f"the same rate, and by {told[2][1]} at the higher one; the loss varies by {told[0][0]}, {told[1][0]} and "
        f"{told[2][0]}. At the same rate the loss varies less with norms {in_seeds(less[0])}, the gradient "
        f"{in_seeds(less[1])}."
    )
    rows = [(kind.label, *both, final(kind, results)) for kind, both in zip(found, told, strict=True)]
    header = ("network", "range of the loss", "move of the gradient, over the gradient", "accuracy")
    plots = [plot_of(found, figure.__eq__, header[number]) for number, figure in enumerate(FIGURES, 1)]
    return study.found(answer, header, rows, *plots, held=all(map(all, less)))


STUDY = Study(
    "smoothness",
    "smooth the loss",
    "At up to 40 moments of training loss and gradient are computed at points of a quarter to four learning rates "
    "along the gradient (Santurkar et al. 2018, https://arxiv.org/abs/1805.11604). The claim holds if the range "
    "of the loss and the largest move of the gradient, over the gradient, medians over the moments, are smaller with "
    "norms at the same rate.",
    recipes,
    find,
)
