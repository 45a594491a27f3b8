"""What became of a network when norms were inserted: its outputs, its answers, and what the norms know of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.calibration import Pool, Statistics, error
from benchmarks.insert_contenders import Inserted, run

__all__ = ["Answers", "Change", "changed", "output_error", "statistics_error"]


@dataclass(frozen=True, slots=True)
class Answers:
    """How good outputs are as answers: cross entropy, and the share of images whose largest output is the right one."""

    loss: float
    top1: float


@dataclass(frozen=True, slots=True)
class Change:
    """Outputs before and after.

    Attributes:
        equal: Whether they are equal in all bits.
        error: The largest difference of a sample's outputs, over its largest output; None where one is not finite.
        agreement: Share of the samples whose largest output stayed the largest.
        before: Of the network without norms; None without labels.
        after: Of the network with norms.
    """

    equal: bool
    error: float | None
    agreement: float
    before: Answers | None
    after: Answers | None


def changed(before: nn.Module, after: nn.Module, batches: list[Tensor], labels: Tensor | None) -> Change:
    """Compare two networks on the same images."""
    old, new = outputs(before, batches), outputs(after, batches)
    known = output_error(old, new)
    return Change(
        torch.equal(old, new),
        known if math.isfinite(known) else None,
        float((old.argmax(1) == new.argmax(1)).double().mean()),
        None if labels is None else answers(old, labels),
        None if labels is None else answers(new, labels),
    )


def outputs(network: nn.Module, batches: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([network(batch) for batch in batches])


def output_error(old: Tensor, new: Tensor) -> float:
    """Relative to the largest output of the same sample; infinite where an output is not finite."""
    if old.shape != new.shape or not bool(new.isfinite().all()):
        return math.inf
    largest = (old.double() - new.double()).abs().amax(1) / old.double().abs().amax(1)
    return float(f"{float(largest.max()):.3g}")


def answers(found: Tensor, labels: Tensor) -> Answers:
    loss = float(functional.cross_entropy(found.double(), labels))
    return Answers(float(f"{loss:.5g}"), float((found.argmax(1) == labels).double().mean()))


def statistics_error(network: nn.Module, inserted: Inserted, batches: list[Tensor]) -> dict[str, float]:
    """Error of all norms' statistics against float64 ones of the same modules' outputs, pooled over all images.

    Returns:
        Of the means in standard deviations of the channel, of the variances relative to them: medians and largest.
    """
    reference = pooled(network, inserted.statistics, batches)
    if inserted.population:
        reference = {name: each.population() for name, each in reference.items()}
    pairs = [(found, reference[name]) for name, found in inserted.statistics.items()]
    # Of a channel that never varies no error can be told: behind a ReLU there are such.
    varying = [(taken(found, known.var > 0), taken(known, known.var > 0)) for found, known in pairs]
    return error([found for found, _ in varying], [known for _, known in varying])


def taken(statistics: Statistics, chosen: Tensor) -> Statistics:
    return Statistics(statistics.mean[chosen], statistics.var[chosen], statistics.count)


def pooled(network: nn.Module, names: Mapping[str, object], batches: list[Tensor]) -> dict[str, Statistics]:
    pools = {name: Pool() for name in names}
    handles = []
    for name, pool in pools.items():

        def add(_module: nn.Module, _inputs: object, output: Tensor, pool: Pool = pool) -> None:
            # A dense layer's output has one element per channel.
            pool.add(output.unsqueeze(2) if output.dim() == 2 else output)

        handles.append(network.get_submodule(name).register_forward_hook(add))
    run(network, batches)
    for handle in handles:
        handle.remove()
    return {name: pool.statistics() for name, pool in pools.items()}
