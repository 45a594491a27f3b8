"""Norms make deeper networks trainable."""

from collections.abc import Sequence

from bnretrofit.studies.claims.comparing import Pair, accuracy_plot, accuracy_rows, pairs
from bnretrofit.studies.findings import Axes, Finding, Plot, Series, percent, spread_of, times
from bnretrofit.studies.networks import CONVOLUTIONS, Shape
from bnretrofit.studies.recipes import Budget, Recipe
from bnretrofit.studies.results import NAMES, Best, Results
from bnretrofit.studies.study import AT_THE_BETTER, FEW_RATES, Study, grid

__all__ = ["STUDY"]

SHAPES = {str(depth): Shape(depth) for depth in CONVOLUTIONS}


def recipes(budget: Budget, seeds: Sequence[int]) -> list[Recipe]:
    """Every depth."""
    return grid(budget, seeds, FEW_RATES, tuple(SHAPES.values()))


def find(study: Study, results: Results) -> Finding:
    """Accuracy by depth, and the gradients of the layers at the first step."""
    found = pairs(results, SHAPES)
    deepest = found[-1]
    held = results.better(deepest.plain.top1, deepest.norms.top1)
    told = [f"{each.label} layers {percent(each.plain.spread)} and {percent(each.norms.spread)} %" for each in found]
    ranges = [_range(deepest.of(norms)) for norms in (False, True)]
    answer = (
        f"Without norms and with norms, {'; '.join(told)}; guessing is {100 * results.images.guessing:.1f} %. At the "
        f"first step of the deepest network the largest gradient of a layer, over the smallest, is {ranges[0]} without "
        f"norms and {ranges[1]} with norms."
    )
    if not any(map(results.has_learnt, (*deepest.plain.top1, *deepest.norms.top1))):
        answer += f" Of {deepest.label} layers neither network learns: at that depth nothing can be told."
    rows = [
        (*row, *(_range(pair.of(norms)) for norms in (False, True)))
        for row, pair in zip(accuracy_rows(found), found, strict=True)
    ]
    gradients = [f"largest over smallest gradient, {name}" for name in NAMES.values()]
    header = ("layers", *NAMES.values(), *gradients)
    accuracy = accuracy_plot(found, "layers", [float(label) for label in SHAPES], log=True)
    return study.found(answer, header, rows, accuracy, _gradients(deepest), held=held)


def _range(best: Best) -> str:
    """Of the layers' gradients at the first step, each over its weight, the largest over the smallest."""
    seen = [outcome.gradients for outcome in best.outcomes if outcome.gradients]
    if len(seen) < len(best.outcomes):
        return "not finite"
    if any(min(gradients) == 0 for gradients in seen):
        return "a layer has none"
    return times(spread_of([max(gradients) / min(gradients) for gradients in seen]))


def _gradients(pair: Pair) -> Plot:
    """Layer by layer, those that are there."""
    series = []
    for norms, name in NAMES.items():
        by_layer = list(
            zip(*(outcome.gradients for outcome in pair.of(norms).outcomes if outcome.gradients), strict=True)
        )
        points = tuple(spread_of(values) for values in by_layer)
        series.append(Series(name, tuple(float(number) for number in range(1, len(points) + 1)), points))
    axes = Axes(f"layer of {pair.label}", "gradient over weight, first step", log_y=True)
    return Plot(axes, tuple(series))


STUDY = Study(
    "depth",
    "make deeper networks trainable",
    f"VGGs of 11 to 64 layers, each {AT_THE_BETTER}. Shown beside accuracy are the layers' gradients at the first "
    "step, each by its norm over that of the weight: through norms without shortcuts they grow with depth (Yang et "
    "al. 2019, https://arxiv.org/abs/1902.08129). The claim holds if the deepest network learns with norms, and is "
    "better.",
    recipes,
    find,
)
