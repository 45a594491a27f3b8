"""The recipe as it first was: gamma set to the variance."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from bnretrofit.norms import running_norms
from bnretrofit.pipeline import retrofit
from bnretrofit.studies.findings import Axes, Finding, Plot, Series, spread_of
from bnretrofit.studies.images import Labelled, batches_of, digits_for
from bnretrofit.studies.recipes import Budget, Recipe
from bnretrofit.studies.results import Results
from bnretrofit.studies.study import Study
from bnretrofit.training.evaluation import evaluate
from bnretrofit.zoo import ModelName, build

__all__ = ["STUDY"]

MODEL = ModelName("bnretrofit", "digits_vgg11")


def recipes(_budget: Budget, _seeds: Sequence[int]) -> list[Recipe]:
    """Nothing is trained."""
    return []


def find(study: Study, _results: Results) -> Finding:
    """What insertion does to a trained network."""
    built = build(MODEL, weights="DEFAULT")
    network, (train, test) = built.model, digits_for(built.preprocessing)
    ours = retrofit(network, [images for images, _ in batches_of(train)])
    kinds: dict[str, nn.Module] = {
        "as it was": network,
        "gamma = variance": _with_gamma(ours, lambda norm: norm.running_var),
        "gamma = standard deviation": _with_gamma(ours, lambda norm: norm.running_var.sqrt()),
        "bnretrofit": ours,
    }
    judged = {
        name: (_error(network, model, test), evaluate(model, batches_of(test), quiet=True))
        for name, model in kinds.items()
    }
    rows = [
        (name, f"{error:.2g}", f"{found.loss:.4f}", f"{100 * found.top1:.2f}")
        for name, (error, found) in judged.items()
    ]
    (moved, after), (_, before) = judged["gamma = variance"], judged["as it was"]
    ours_moved, _ = judged["bnretrofit"]
    answer = (
        f"With gamma = variance the outputs move by {moved:.2g} of the largest, and the loss goes from "
        f"{before.loss:.4f} to {after.loss:.4f}; as it is inserted here they move by {ours_moved:.2g}."
    )
    places = tuple(float(number) for number in range(len(kinds)))
    loss = Series("loss", places, tuple(spread_of([found.loss]) for _, found in judged.values()))
    axes = Axes("insertion", "loss on images to judge with", log_y=True, names=tuple(kinds))
    header = ("insertion", "largest move of an output, over the largest output", "loss", "accuracy")
    return study.found(answer, header, rows, Plot(axes, (loss,)), held=moved == 0)


@torch.no_grad()
def _with_gamma(model: nn.Module, gamma: Callable[[Any], torch.Tensor]) -> nn.Module:
    """The retrofitted network with statistics and beta as they are, and another gamma."""
    other = deepcopy(model)
    for norm in running_norms(other).values():
        norm.weight.copy_(gamma(norm))  # type: ignore[operator]
    return other


@torch.inference_mode()
def _error(a: nn.Module, b: nn.Module, images: Labelled) -> float:
    first, second = (torch.cat([model(each).double() for each, _ in batches_of(images)]) for model in (a, b))
    return float((first - second).abs().max() / first.abs().max())


STUDY = Study(
    "history",
    "leave a trained network's outputs as they are if gamma is set to the variance, as the recipe first said",
    "The recipe's first form (a notebook of fastai's, 2017) set gamma to the variance of the channel; the identity "
    "needs the standard deviation, with eps, and to be exact to the last bit what the kernel makes of both. Norms are "
    "inserted into the bundled network, which was trained without them, and held-out images are shown. The claim holds "
    "if no output moves.",
    recipes,
    find,
    uses="nothing",
)
