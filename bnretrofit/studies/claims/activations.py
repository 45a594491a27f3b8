"""Norms make more activations viable."""

from collections.abc import Sequence

from bnretrofit.studies.claims.comparing import accuracy_plot, accuracy_rows, by_seed, pairs
from bnretrofit.studies.findings import Finding, percent
from bnretrofit.studies.networks import ACTIVATIONS, Shape
from bnretrofit.studies.recipes import Budget, Recipe
from bnretrofit.studies.results import NAMES, Results
from bnretrofit.studies.study import AT_THE_BETTER, FEW_RATES, Study, grid

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
    held = results.better(worst[False], worst[True])
    words = [
        f"{pair.label} {percent(pair.plain.spread)} % without norms, {percent(pair.norms.spread)} % with norms"
        for pair in found
    ]
    answer = f"VGG-{DEPTH}: {'; '.join(words)}. Guessing is {100 * results.images.guessing:.1f} %."
    plot = accuracy_plot(found, "activation")
    return study.found(answer, ("activation", *NAMES.values()), accuracy_rows(found), plot, held=held)


STUDY = Study(
    "activations",
    "make more activations viable",
    f"A VGG of {DEPTH} layers with each activation; initial weights are He's normal ones with torch's gain for the "
    f"activation. Each network is trained {AT_THE_BETTER}. The claim holds if with norms the network learns with all "
    "of them, and the worst accuracy is higher.",
    recipes,
    find,
)
