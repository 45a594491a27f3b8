"""Norms reduce internal covariate shift."""

from collections.abc import Callable, Sequence

from bnretrofit.studies.claims.watched import final, kinds, over_run, plot_of, watching
from bnretrofit.studies.findings import Finding, spread_of, times
from bnretrofit.studies.recipes import Budget, Recipe
from bnretrofit.studies.results import Results
from bnretrofit.studies.study import Study

__all__ = ["STUDY"]

WATCH = "inputs"


def recipes(budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """Three networks, watched."""
    return watching(WATCH, budget, seeds)


def find(study: Study, results: Results) -> Finding:
    """How far what layers read moves from one probe to the next."""
    found = kinds(WATCH, results)
    moves = [[[over_run(outcome, names) for outcome in kind.outcomes] for names in (_mean, _spread)] for kind in found]
    plain, same, higher = moves
    held = all(b < a for which in (0, 1) for a, b in zip(plain[which], same[which], strict=True))
    told = [final(kind, results) for kind in found]
    answer = (
        f"From one probe to the next the means of what layers read move by {times(spread_of(plain[0]))} standard "
        f"deviations without norms, by {times(spread_of(same[0]))} with norms at the same rate, and by "
        f"{times(spread_of(higher[0]))} at the higher one. They come to {told[0]}, {told[1]} and {told[2]} %: a "
        "network that learns less moves less, too."
    )
    rows = [
        (kind.label, *(times(spread_of(each)) for each in both), final(kind, results))
        for kind, both in zip(found, moves, strict=True)
    ]
    header = ("network", "move of means, standard deviations", "move of standard deviations, logarithms", "accuracy")
    plots = (plot_of(found, _mean, header[1]), plot_of(found, _spread, header[2]))
    return study.found(answer, header, rows, *plots, held=held)


def _named(prefix: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(prefix)


_mean, _spread = _named("mean "), _named("spread ")

STUDY = Study(
    "covariate-shift",
    "reduce internal covariate shift",
    "At up to 40 moments of training the same 128 images are shown, in training mode; of each channel that a layer "
    "reads, how far its mean has moved since the last moment, in standard deviations, and how far its standard "
    "deviation has, as a logarithm; median over channels, mean over moments and layers. The claim holds if both are "
    "smaller with norms at the same learning rate.",
    recipes,
    find,
)
