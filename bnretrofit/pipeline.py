"""retrofit = make_plan, calibrate, insert; or make_plan and standardize."""

from collections.abc import Iterable, Sequence
from itertools import chain

from torch import nn

from bnretrofit.batches import Batch, taken
from bnretrofit.calibration import calibrate
from bnretrofit.copies import independent_copy
from bnretrofit.insertion import insert
from bnretrofit.planning import make_plan
from bnretrofit.standardising import standardize

__all__ = ["retrofit"]


def retrofit(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    init: str = "identity",
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    layers: Sequence[str] = ("conv", "dense"),
    placement: str = "pre",
    like: nn.Module | None = None,
) -> nn.Module:
    """Insert BatchNorm after a network's conv and dense layers without changing its outputs.

    Args:
        model: The network; it is left as it is, and shares no tensor with the result.
        batches: The calibration set, at least one batch; drawn once.
        init: "identity"; or "standardize" for networks not yet trained: weight 1 and bias 0, with the statistics of
            what each norm reads in its place.
        include: Module-name globs of layers to take (see `make_plan`).
        exclude: Module-name globs of layers to skip.
        layers: Families to take: "conv", "dense" or both.
        placement: "pre": between a layer and its activation, or "post": after the activation (see `make_plan`).
        like: A model of another architecture and the same function, whose class the result is to have.

    Returns:
        The same network with norms, in the same mode.

    Raises:
        RetrofitError: Something was wrong with the choices, the model or the batches; the message says what.
    """
    iterator = taken(batches, "calibrate")
    first = next(iterator)
    plan = make_plan(model, first, include=include, exclude=exclude, layers=layers, placement=placement, like=like)
    if init == "standardize":
        # Gone through several times: each norm changes what the later ones read.
        return independent_copy(standardize(model, plan, [first, *iterator]))
    return insert(model, plan, calibrate(model, plan, chain([first], iterator)), init=init)
