"""model with norms + batches -> the same with running statistics that are those of its own activations.

Running statistics lag behind weights that are still being trained, and each norm's depend on those of the norms before
it. So the pass is repeated, each time with the statistics of the last one: after k passes the first k norms of a chain
are final, and it ends when nothing moves any more.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bnretrofit.batches import Batch, as_call, device_of, map_tensors
from bnretrofit.copies import independent_copy
from bnretrofit.errors import InputRejectedError
from bnretrofit.memory import Parts
from bnretrofit.moments import ChannelStats, PassMoments
from bnretrofit.norms import ChannelsLastBatchNorm1d, running_norms

__all__ = ["SETTLED", "Batches", "Recalibrated", "held_statistics", "moved", "recalibrate", "set_statistics"]

SETTLED = 1e-3
"""Largest change of a channel's scale, relative, at which the statistics are taken to be final: a tenth of what moves a
weight beyond verification's tolerance for half precision, and far below what sampling the images costs."""


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """What was measured.

    Attributes:
        model: A copy of the model with the new statistics.
        ratios: Running over re-measured variance (with eps), (C,) by norm name: 1 where statistics were right.
        passes: How often the batches were gone through.
    """

    model: nn.Module
    ratios: dict[str, Tensor]
    passes: int


class Batches(Protocol):
    """Batches that can be gone through more than once, such as a list of them or a DataLoader."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


def recalibrate(model: nn.Module, batches: Batches) -> Recalibrated:
    """Measure the running statistics of every norm again, with the weights as they are.

    The model runs in eval mode on a copy; it is left as it is. Statistics are gathered as `calibrate` gathers them, so
    they do not depend on how the samples are batched, and a batch that does not fit in memory is run in parts.

    Args:
        model: A model with BatchNorms that keep running statistics.
        batches: The samples, to be gone through several times; a progress bar goes to stderr.

    Returns:
        The copy, in the mode of `model`, and how far its statistics were off.

    Raises:
        InputRejectedError: There is no batch or no such norm, or an activation is not finite.
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
    old = {name: _variance(norm).clone() for name, norm in norms.items()}
    passes, parts = 0, Parts()
    with torch.inference_mode(), tqdm(desc="recalibrate", unit="batch", delay=1.0, leave=False) as progress:
        while passes <= len(norms):
            passes += 1
            if _pass(copy, norms, batches, parts, progress.update) <= SETTLED:
                break
    parts.tell()
    for module, training in modes.items():
        module.training = training
    ratios = {name: (old[name] / _variance(norm)).double().cpu() for name, norm in norms.items()}
    return Recalibrated(copy, ratios, passes)


def _variance(norm: Any) -> Tensor:
    variance: Tensor = norm.running_var + norm.eps
    return variance


def _pass(
    model: nn.Module, norms: dict[str, nn.Module], batches: Batches, parts: Parts, progress: Callable[[], object]
) -> float:
    """Measure all norms once and set what was measured; returns the largest relative change of a scale or mean."""
    moments = PassMoments()
    handles = [
        norm.register_forward_pre_hook(_collector(name, norm, moments), with_kwargs=True)
        for name, norm in norms.items()
    ]
    try:
        for batch in batches:
            parts.run(partial(_forward, model), batch, moments)
            progress()
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


def set_statistics(name: str, norm: Any, stats: ChannelStats) -> None:
    """Give a norm the running statistics that were measured.

    Args:
        name: The norm's module name, for the error.
        norm: A BatchNorm with running statistics; edited in place.
        stats: Of what it reads, (C,) each.

    Raises:
        InputRejectedError: They are of one value per channel, not finite, or beyond the norm's dtype.
    """
    if stats.count < 2 or not bool(torch.isfinite(stats.mean).all() and torch.isfinite(stats.var).all()):
        raise InputRejectedError(
            "the norm's statistics cannot be measured",
            where=name,
            why="its input is NaN or infinite" if stats.count > 1 else "there is one value per channel",
            remedy="check the inputs and the model's weights, or take more of them",
        )
    norm.running_mean.copy_(stats.mean)
    norm.running_var.copy_(stats.unbiased_var)
    if not bool(torch.isfinite(norm.running_var).all() and torch.isfinite(norm.running_mean).all()):
        why = f"they overflow {norm.running_var.dtype}"
        raise InputRejectedError("the norm's statistics cannot be held", where=name, why=why, remedy="use float32")


def held_statistics(norm: Any) -> tuple[Tensor, Tensor]:
    """What a norm subtracts and divides by: running mean, and running variance with eps; float64 copies, (C,) each."""
    return norm.running_mean.to(torch.float64, copy=True), _variance(norm).double()


def moved(before: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor]) -> float:
    """Largest change of a scale, relative, or of a mean, in standard deviations of the channel as the norm sees it."""
    means, variances = zip(before, now, strict=True)
    scales = (variances[0] / variances[1]).sqrt() - 1
    return max(float(scales.abs().max()), float(((means[1] - means[0]).abs() / variances[1].sqrt()).max()))


def _renewed(name: str, norm: nn.Module, stats: ChannelStats) -> float:
    before = held_statistics(norm)
    set_statistics(name, norm, stats)
    return moved(before, held_statistics(norm))
