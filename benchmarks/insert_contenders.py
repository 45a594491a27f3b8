"""Ways to insert norms that are meant to change nothing: ours, and TinyNN's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import bnretrofit
from benchmarks.calibration import Statistics
from benchmarks.peers import peer
from bnretrofit.norms import running_norms

__all__ = ["Inserted", "calibration", "held", "insert_by_tinynn", "insert_ours", "run"]


@dataclass(frozen=True, slots=True)
class Inserted:
    """A network with norms.

    Attributes:
        network: The network, in eval mode.
        statistics: What its norms hold, by the name of the module whose output each reads.
        population: Whether the variances are the population's, not the unbiased ones that torch's norms hold.
    """

    network: nn.Module
    statistics: Mapping[str, Statistics]
    population: bool = False


def insert_ours(network: nn.Module, batches: list[Tensor]) -> Inserted:
    result = bnretrofit.retrofit(network, batches)
    return Inserted(result, {name.removesuffix(".norm"): held(norm) for name, norm in running_norms(result).items()})


def calibration(network: nn.Module, batches: list[Tensor]) -> Callable[[], object]:
    """Our part that grows with the images, alone."""
    plan = bnretrofit.make_plan(network, batches[0][:1])
    return lambda: bnretrofit.calibrate(network, plan, batches)


def insert_by_tinynn(network: nn.Module, batches: list[Tensor]) -> Inserted:
    """TinyNN's model_restore_bn, with one pass in training mode, as its guide has it."""
    restore = peer("tinynn.util.bn_restore").model_restore_bn
    # The pass goes through dropout.
    torch.manual_seed(0)
    result = restore(network, torch.device("cpu"), lambda model: run(model, batches)).eval()
    return Inserted(result, {name.removesuffix(".bn"): held(norm) for name, norm in running_norms(result).items()})


def run(network: nn.Module, batches: list[Tensor]) -> None:
    with torch.no_grad():
        for batch in batches:
            network(batch)


def held(norm: nn.Module) -> Statistics:
    return Statistics(norm.get_buffer("running_mean").double(), norm.get_buffer("running_var").double())
