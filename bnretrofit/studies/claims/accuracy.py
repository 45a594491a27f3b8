"""Norms give better results at an equal budget."""

from collections.abc import Sequence

from bnretrofit.studies.claims.comparing import accuracy_plot, accuracy_rows, pair
from bnretrofit.studies.findings import Finding, spread_of
from bnretrofit.studies.networks import Shape
from bnretrofit.studies.recipes import Budget, Recipe
from bnretrofit.studies.results import NAMES, Results
from bnretrofit.studies.study import FEW_RATES, RATES, Study, grid

__all__ = ["STUDY"]

KINDS = {"VGG-11": (Shape(11), RATES), "VGG-16": (Shape(16), FEW_RATES)}
"""Shape, and the rates of which each network has its best one."""


def recipes(budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """Two depths, one of them at every rate."""
    return [recipe for shape, rates in KINDS.values() for recipe in grid(budget, seeds, rates, [shape])]


def find(study: Study, results: Results) -> Finding:
    """The best accuracy of either network."""
    found = [pair(results, label, shape, rates) for label, (shape, rates) in KINDS.items()]
    gaps = [(each.label, [b - a for a, b in zip(each.plain.top1, each.norms.top1, strict=True)]) for each in found]
    held = all(results.better(each.plain.top1, each.norms.top1) for each in found)
    words = [
        f"{100 * spread_of(each).mean:+.1f} points for {label} ({', '.join(f'{100 * gap:+.1f}' for gap in each)})"
        for label, each in gaps
    ]
    answer = f"With norms over without, each at its best rate: {'; '.join(words)}."
    header = ("network", *(f"{name}, at its best rate" for name in NAMES.values()))
    return study.found(answer, header, accuracy_rows(found), accuracy_plot(found, "network"), held=held)


STUDY = Study(
    "accuracy",
    "give better results at an equal budget",
    "Each network is trained for the same number of steps at each rate (VGG-16 at two), and judged at its best one. "
    "The claim holds if the accuracy with norms is higher, in every seed and for both depths.",
    recipes,
    find,
)
