"""model with norms + batches -> the same with running statistics that are those of its own activations.

Running statistics lag behind weights that are still being trained, and each norm's depend on those of the norms before
it. So the pass is repeated, each time with the statistics of the last one: after k passes the first k norms of a chain
are final, and it ends when nothing moves any more. Where they are far off, errors multiply from norm to norm, in a deep
chain beyond any number: then, and where there is no end to it, a sweep brings all of them near (see `sweeping`). A norm
that is called several times may read what it has made itself: its statistics swing from pass to pass, and settle where
each pass goes half of the way.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bnretrofit.batches import Batch, as_call, device_of, map_tensors
from bnretrofit.copies import independent_copy
from bnretrofit.errors import InputRejectedError
from bnretrofit.memory import Parts, is_out_of_memory
from bnretrofit.moments import ChannelStats, PassMoments
from bnretrofit.norm_statistics import SETTLED, Batches, held_statistics, moved, set_statistics, variance_of
from bnretrofit.norms import ChannelsLastBatchNorm1d, running_norms
from bnretrofit.sweeping import settle

__all__ = ["Recalibrated", "recalibrate"]

MANY = 8
"""Passes after which a sweep is tried: networks that are near are done long before."""

HALVES = 30
"""Passes that go half of the way: what they come nearer by half each time is within rounding then."""


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """What was measured.

    Attributes:
        model: A copy of the model with the new statistics.
        ratios: Running over re-measured variance (with eps), (C,) by norm name: 1 where statistics were right.
        passes: How often the batches were gone through to measure, sweeps left out.
    """

    model: nn.Module
    ratios: dict[str, Tensor]
    passes: int


def recalibrate(model: nn.Module, batches: Batches) -> Recalibrated:
    """Measure the running statistics of every norm again, with the weights as they are.

    The model runs in eval mode on a copy; it is left as it is. Statistics are gathered as `calibrate` gathers them, so
    they do not depend on how the samples are batched, but for a trace below `norm_statistics.SETTLED` where a sweep had
    to help; and a batch that does not fit in memory is run in parts.

    Args:
        model: A model with BatchNorms that keep running statistics.
        batches: The samples, to be gone through several times; a progress bar goes to stderr.

    Returns:
        The copy, in the mode of `model`, and how far its statistics were off.

    Raises:
        InputRejectedError: There is no batch or no such norm, an activation is not finite, or the statistics do not
            settle.
        ResourceError: Not even one sample fits in memory.
    """
    copy = independent_copy(model)
    modes = {module: module.training for module in copy.modules()}
    copy.eval()
    norms = running_norms(copy)
    if not norms or not len(batches):
        raise InputRejectedError(
            "there is nothing to recalibrate",
            why="no batch was given" if norms else "the model has no BatchNorm with running statistics",
        )
    old = {name: variance_of(norm).clone() for name, norm in norms.items()}
    parts = Parts()
    with torch.inference_mode():
        passes = _passes_until_settled(copy, norms, batches, parts)
    parts.tell()
    for module, training in modes.items():
        module.training = training
    ratios = {name: (old[name] / variance_of(norm)).double().cpu() for name, norm in norms.items()}
    return Recalibrated(copy, ratios, passes)


def _passes_until_settled(model: nn.Module, norms: dict[str, nn.Module], batches: Batches, parts: Parts) -> int:
    """Go through the batches until nothing moves; returns how often, sweeps left out."""
    last, problem = math.inf, None
    for number in range(1, MANY + 1):
        try:
            change = _pass(model, norms, batches, parts, f"recalibrate, pass {number}")
        except InputRejectedError as error:
            change, problem = math.inf, error
        if change <= SETTLED:
            return number
        if not math.isfinite(change) or change > last:
            break
        last = change
    return number + _passes_after_a_sweep(model, norms, batches, parts, problem)


def _passes_after_a_sweep(
    model: nn.Module,
    norms: dict[str, nn.Module],
    batches: Batches,
    parts: Parts,
    problem: InputRejectedError | None,
) -> int:
    """Bring all norms near, then go on until nothing moves.

    Args:
        model: In eval mode.
        norms: Its norms.
        batches: The samples.
        parts: As `_pass` takes them.
        problem: Why the last pass failed, if it did.
    """
    try:
        settle(model, norms, batches, next(iter(batches)), "recalibrate")
    except (RuntimeError, MemoryError) as error:
        # Not even one batch fits, which passes take in parts: they go on from what there is.
        if not is_out_of_memory(error):
            raise
        if problem is not None:
            raise problem from error
    # In a chain all are final then.
    for number in range(1, len(norms) + 2):
        if _pass(model, norms, batches, parts, f"recalibrate, pass {number} after a sweep") <= SETTLED:
            return number
    return len(norms) + 1 + _passes_by_halves(model, norms, batches, parts)


def _passes_by_halves(model: nn.Module, norms: dict[str, Any], batches: Batches, parts: Parts) -> int:
    """Go half of the way with each pass, until nothing moves; returns how often.

    Raises:
        InputRejectedError: There is no end to it.
    """
    change = math.inf
    for number in range(1, HALVES + 1):
        before = {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in norms.items()}
        change = _pass(model, norms, batches, parts, f"recalibrate, pass {number} by halves")
        if change <= SETTLED:
            return number
        for name, norm in norms.items():
            mean, var = before[name]
            norm.running_mean.lerp_(mean, 0.5)
            norm.running_var.lerp_(var, 0.5)
    raise InputRejectedError(
        "the norms' statistics do not settle",
        why=f"measured again and again, they still move by {change:.2g}",
        remedy="a norm that is called several times depends on itself: let it keep its running statistics",
    )


def _pass(model: nn.Module, norms: dict[str, nn.Module], batches: Batches, parts: Parts, title: str) -> float:
    """Measure all norms once and set what was measured; returns the largest relative change of a scale or mean."""
    moments = PassMoments()
    handles = [
        norm.register_forward_pre_hook(_collector(name, norm, moments), with_kwargs=True)
        for name, norm in norms.items()
    ]
    try:
        for batch in tqdm(batches, desc=title, unit="batch", delay=1.0, leave=False):
            parts.run(partial(_forward, model), batch, moments)
    finally:
        for handle in handles:
            handle.remove()
    return max((_renewed(name, norms[name], stats) for name, stats in moments.stats().items()), default=0.0)


def _forward(model: nn.Module, batch: Batch) -> None:
    args, kwargs = as_call(map_tensors(lambda tensor: tensor.to(device_of(model), copy=True), batch))
    model(*args, **kwargs)


def _collector(name: str, norm: nn.Module, moments: PassMoments) -> Callable[[nn.Module, Any, Any], None]:
    channel_dim = -1 if isinstance(norm, ChannelsLastBatchNorm1d) else 1

    def collect(_norm: nn.Module, inputs: Any, named: Any) -> None:
        read: Tensor = [*inputs, *named.values()][0]
        moments.stage(name, read, channel_dim)

    return collect


def _renewed(name: str, norm: nn.Module, stats: ChannelStats) -> float:
    before = held_statistics(norm)
    set_statistics(name, norm, stats)
    return moved(before, held_statistics(norm))
