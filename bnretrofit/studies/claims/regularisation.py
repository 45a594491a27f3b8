"""Norms regularise."""

from collections.abc import Sequence

from bnretrofit.studies.claims.comparing import Pair, accuracy_axes, accuracy_rows, accuracy_series, pairs
from bnretrofit.studies.findings import Finding, percent, spread_of
from bnretrofit.studies.networks import Shape
from bnretrofit.studies.recipes import Budget, Recipe
from bnretrofit.studies.results import NAMES, Best, Results
from bnretrofit.studies.study import FEW_RATES, Study, grid

__all__ = ["STUDY"]

DROPOUTS = (0.0, 0.25, 0.5)


def recipes(budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """Every rate of dropout."""
    return grid(budget, seeds, FEW_RATES, [Shape(dropout=rate) for rate in DROPOUTS])


def find(study: Study, results: Results) -> Finding:
    """How much better the images that were learnt are known than others, and which dropout is best."""
    found = pairs(results, {f"{rate:g}": Shape(dropout=rate) for rate in DROPOUTS})
    gaps = {norms: _gaps(found[0].of(norms)) for norms in (False, True)}
    held = all(b < a for a, b in zip(gaps[False], gaps[True], strict=True))
    best = {norms: _best_dropout(found, norms) for norms in (False, True)}
    answer = (
        f"Without dropout, accuracy on the images that were learnt is {percent(spread_of(gaps[False]))} points above "
        f"that on others without norms, {percent(spread_of(gaps[True]))} with norms. The best dropout is "
        f"{best[False]} without norms and {best[True]} with norms."
    )
    rows = tuple(
        (*row, *(percent(spread_of(_gaps(pair.of(norms)))) for norms in (False, True)))
        for row, pair in zip(accuracy_rows(found), found, strict=True)
    )
    header = ("dropout", *NAMES.values(), *(f"gap in points, {name}" for name in NAMES.values()))
    series = accuracy_series(found, DROPOUTS)
    return Finding(study.name, study.claim, held, answer, header, rows, accuracy_axes("dropout"), series)


def _best_dropout(found: Sequence[Pair], norms: bool) -> str:  # noqa: FBT001 - as in `Pair.of`
    return max(found, key=lambda pair: pair.of(norms).spread.mean).label


def _gaps(best: Best) -> list[float]:
    """Accuracy on what was learnt minus that on other images; a run that diverged has learnt nothing."""
    return [(outcome.train_top1 or 0.0) - (outcome.top1 or 0.0) for outcome in best.outcomes]


STUDY = Study(
    "regularisation",
    "regularise",
    "Accuracy on the images that were learnt, minus that on others, with three rates of dropout between the dense "
    "layers. The claim holds if that gap is smaller with norms, both without dropout.",
    recipes,
    find,
)
