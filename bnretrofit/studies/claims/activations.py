"""Norms make more activations viable."""

from collections.abc import Sequence

from bnretrofit.studies.claims.comparing import accuracy_axes, accuracy_rows, accuracy_series, by_seed, pairs
from bnretrofit.studies.findings import Finding, percent
from bnretrofit.studies.networks import ACTIVATIONS, Shape
from bnretrofit.studies.recipes import Budget, Recipe
from bnretrofit.studies.results import NAMES, Results
from bnretrofit.studies.study import FEW_RATES, Study, grid

__all__ = ["STUDY"]

DEPTH = 16
SHAPES = {name: Shape(DEPTH, activation=name) for name in ACTIVATIONS}


def recipes(budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """Every activation."""
    return grid(budget, seeds, FEW_RATES, tuple(SHAPES.values()))


def find(study: Study, results: Results) -> Finding:
    """The worst accuracy over all activations, of either network."""
    found = pairs(results, SHAPES)
    worst = {norms: [min(each) for each in by_seed(found, norms)] for norms in (False, True)}
    held = all(b > a for a, b in zip(worst[False], worst[True], strict=True))
    words = [
        f"{pair.label} {percent(pair.plain.spread)} % without norms, {percent(pair.norms.spread)} % with norms"
        for pair in found
    ]
    answer = f"VGG-{DEPTH}: {'; '.join(words)}."
    header = ("activation", *NAMES.values())
    axes = accuracy_axes("activation", names=tuple(SHAPES))
    return Finding(study.name, study.claim, held, answer, header, accuracy_rows(found), axes, accuracy_series(found))


STUDY = Study(
    "activations",
    "make more activations viable",
    f"A VGG of {DEPTH} layers with each activation, and the initialisation that is usual for it. The claim holds if "
    "the worst accuracy over the activations is higher with norms.",
    recipes,
    find,
)
