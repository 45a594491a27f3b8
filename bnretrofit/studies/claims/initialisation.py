"""Norms make initialisation easier."""

from collections.abc import Sequence

from bnretrofit.studies.claims.comparing import accuracy_plot, accuracy_rows, by_seed, pairs
from bnretrofit.studies.findings import Finding, percent, spread_of
from bnretrofit.studies.networks import Shape
from bnretrofit.studies.recipes import Budget, Recipe
from bnretrofit.studies.results import NAMES, Results
from bnretrofit.studies.study import AT_THE_BETTER, FEW_RATES, Study, grid

__all__ = ["STUDY"]

GAINS = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)


def recipes(budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """Every scale of the initial weights."""
    return grid(budget, seeds, FEW_RATES, [Shape(gain=gain) for gain in GAINS])


def find(study: Study, results: Results) -> Finding:
    """The worst accuracy over all scales, of either network."""
    found = pairs(results, {f"{gain:g}": Shape(gain=gain) for gain in GAINS})
    worst = {norms: [min(each) for each in by_seed(found, norms)] for norms in (False, True)}
    held = results.better(worst[False], worst[True])
    answer = (
        f"The worst accuracy of all scales is {percent(spread_of(worst[False]))} % without norms and "
        f"{percent(spread_of(worst[True]))} % with norms; guessing is {100 * results.images.guessing:.1f} %."
    )
    header = ("scale of the initial weights", *NAMES.values())
    return study.found(
        answer, header, accuracy_rows(found), accuracy_plot(found, header[0], GAINS, log=True), held=held
    )


STUDY = Study(
    "initialisation",
    "make initialisation easier",
    f"All initial weights are multiplied with the same number; each network is trained {AT_THE_BETTER}. The claim "
    "holds if with norms the network learns from every scale, and the worst accuracy over the scales is higher.",
    recipes,
    find,
)
