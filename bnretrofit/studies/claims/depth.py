"""Norms make deeper networks trainable."""

from collections.abc import Sequence

from bnretrofit.studies.claims.comparing import accuracy_axes, accuracy_rows, accuracy_series, pairs
from bnretrofit.studies.findings import Finding, percent, spread_of, times
from bnretrofit.studies.networks import CONVOLUTIONS, Shape
from bnretrofit.studies.recipes import Budget, Recipe
from bnretrofit.studies.results import NAMES, Best, Results
from bnretrofit.studies.study import FEW_RATES, Study, grid

__all__ = ["STUDY"]

SHAPES = {str(depth): Shape(depth) for depth in CONVOLUTIONS}


def recipes(budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """Every depth."""
    return grid(budget, seeds, FEW_RATES, tuple(SHAPES.values()))


def find(study: Study, results: Results) -> Finding:
    """Accuracy by depth, and how far the gradients of the layers are apart at the first step."""
    found = pairs(results, SHAPES)
    deepest = found[-1]
    held = all(b > a for a, b in zip(deepest.plain.top1, deepest.norms.top1, strict=True))
    answer = (
        f"At {deepest.label} layers the accuracy is {percent(deepest.plain.spread)} % without norms and "
        f"{percent(deepest.norms.spread)} % with norms."
    )
    rows = tuple(
        (*row, *(_range(pair.of(norms)) for norms in (False, True)))
        for row, pair in zip(accuracy_rows(found), found, strict=True)
    )
    gradients = tuple(f"largest over smallest gradient, {name}" for name in NAMES.values())
    header = ("layers", *NAMES.values(), *gradients)
    axes = accuracy_axes("layers", log=True)
    series = accuracy_series(found, [float(label) for label in SHAPES])
    return Finding(study.name, study.claim, held, answer, header, rows, axes, series)


def _range(best: Best) -> str:
    """Of the layers' gradients at the first step, each over its weight, the largest over the smallest."""
    ratios = [
        max(outcome.gradients) / max(min(outcome.gradients), 1e-30) for outcome in best.outcomes if outcome.gradients
    ]
    return times(spread_of(ratios)) if ratios else "not finite"


STUDY = Study(
    "depth",
    "make deeper networks trainable",
    "VGGs of 11 to 64 layers. Shown beside accuracy is how far the layers' gradients are apart at the first step, each "
    "by its norm over that of the weight. The claim holds if the deepest network is better with norms.",
    recipes,
    find,
)
