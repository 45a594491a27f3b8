"""Norms inserted as they are, then told their statistics by torch or fvcore, and undone by their own weight."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from benchmarks.insert_by_hand import behind, deviation, layers_of
from benchmarks.insert_contenders import Inserted, held
from benchmarks.peers import peer

__all__ = ["Updating", "insert_by_updating", "update_by_fvcore", "update_by_torch", "updating"]

Updating = Callable[[nn.Module, list[Tensor]], object]
"""Leaves in a network's norms the statistics that it finds on the batches."""


def update_by_torch(network: nn.Module, batches: list[Tensor]) -> None:
    update_bn(batches, network)


def update_by_fvcore(network: nn.Module, batches: list[Tensor]) -> None:
    peer("fvcore.nn.precise_bn").update_bn_stats(network.train(), batches, len(batches))


def insert_by_updating(network: nn.Module, batches: list[Tensor], update: Updating) -> Inserted:
    """A norm after every convolution and dense layer; both tools run the network in training mode.

    Each norm then divides by its batch's own statistics, so that beyond the first layer these are of another network.
    """
    result, places = fresh(network)
    # The pass goes through dropout.
    torch.manual_seed(0)
    update(result, batches)
    result.eval()
    for name in places:
        norm = result.get_submodule(f"{name}.1")
        with torch.no_grad():
            norm.get_parameter("weight").copy_(deviation(norm))
            norm.get_parameter("bias").copy_(norm.get_buffer("running_mean"))
    statistics = {name: held(result.get_submodule(f"{name}.1")) for name in places}
    return Inserted(result, statistics, population=update is update_by_fvcore)


def updating(network: nn.Module, batches: list[Tensor], update: Updating) -> Callable[[], object]:
    """The part that grows with the images, alone."""
    result, _ = fresh(network)
    return partial(update, result, batches)


def fresh(network: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy with norms that know nothing yet, and the names of the layers that they stand behind."""
    result = copy.deepcopy(network)
    places = layers_of(result)
    for name in places:
        layer = result.get_submodule(name)
        behind(result, name, len(layer.get_parameter("weight")))
    return result, places
