"""Norms regularise."""

from collections.abc import Callable, Sequence

from bnretrofit.studies.claims.comparing import Pair, accuracy_plot, pairs
from bnretrofit.studies.findings import Finding, percent, spread_of
from bnretrofit.studies.networks import Shape
from bnretrofit.studies.recipes import Budget, Outcome, Recipe
from bnretrofit.studies.results import NAMES, Best, Results
from bnretrofit.studies.study import AT_THE_BETTER, FEW_RATES, Study, grid

__all__ = ["STUDY"]

DROPOUTS = (0.0, 0.25, 0.5)

ALIKE = 0.1
"""Accuracies on what was learnt that are no further apart than that can be held against each other."""


def recipes(budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """Every rate of dropout."""
    return grid(budget, seeds, FEW_RATES, [Shape(dropout=rate) for rate in DROPOUTS])


def find(study: Study, results: Results) -> Finding:
    """How much better the images that were learnt are known than others, and which dropout is best."""
    found = pairs(results, {f"{rate:g}": Shape(dropout=rate) for rate in DROPOUTS})
    without = list(zip(found[0].plain.outcomes, found[0].norms.outcomes, strict=True))
    can_be_told = all(_learnt(a) and _learnt(b) and abs(_learnt(a) - _learnt(b)) <= ALIKE for a, b in without)
    held = can_be_told and all(_gap(b) < _gap(a) for a, b in without)
    gaps, learnt = ([_over_seeds(figure, without, norms) for norms in (0, 1)] for figure in (_gap, _learnt))
    best = [_best_dropout(found, norms) for norms in (False, True)]
    answer = (
        f"Without dropout, accuracy on the images that were learnt is {gaps[0]} points above that on others without "
        f"norms, {gaps[1]} with norms. The best dropout is {best[0]} without norms and {best[1]} with norms: that "
        f"norms need less of it {'shows' if float(best[1]) < float(best[0]) else 'does not show'}."
    )
    if not can_be_told:
        answer += (
            f" What was learnt is known to {learnt[0]} % without norms and to {learnt[1]} % with norms: at this budget "
            "the gap tells how much was learnt."
        )
    rows = [(pair.label, *(cell for norms in (False, True) for cell in _cells(pair.of(norms)))) for pair in found]
    columns = ("accuracy", "on what was learnt", "gap in points")
    header = ("dropout", *(f"{column}, {name}" for name in NAMES.values() for column in columns))
    return study.found(answer, header, rows, accuracy_plot(found, "dropout", DROPOUTS), held=held)


def _learnt(outcome: Outcome) -> float:
    """Accuracy on what was learnt; nought of a run that diverged."""
    return outcome.train_top1 or 0.0


def _gap(outcome: Outcome) -> float:
    return _learnt(outcome) - (outcome.top1 or 0.0)


def _over_seeds(figure: Callable[[Outcome], float], both: Sequence[tuple[Outcome, Outcome]], which: int) -> str:
    return percent(spread_of([figure(each[which]) for each in both]))


def _cells(best: Best) -> tuple[str, str, str]:
    learnt, gap = (percent(spread_of(list(map(figure, best.outcomes)))) for figure in (_learnt, _gap))
    return f"{percent(best.spread)} at {best.rate:g}", learnt, gap


def _best_dropout(found: Sequence[Pair], norms: bool) -> str:  # noqa: FBT001 - as in `Pair.of`
    return max(found, key=lambda pair: pair.of(norms).spread.mean).label


STUDY = Study(
    "regularisation",
    "regularise",
    "Accuracy on the images that were learnt, minus that on others, with three rates of dropout between the dense "
    f"layers. Each network is trained {AT_THE_BETTER}. The claim holds if, both without dropout, what was learnt is "
    "known about as well (within ten points) and the gap is smaller with norms; which dropout is best is told "
    "besides.",
    recipes,
    find,
)
