"""What a norm is given to normalise with, what it holds, and how far that has moved."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from bnretrofit.batches import Batch
from bnretrofit.errors import InputRejectedError
from bnretrofit.moments import ChannelStats

__all__ = ["SETTLED", "Batches", "held_statistics", "moved", "set_statistics", "variance_of"]

SETTLED = 1e-3
"""Largest change of a channel's scale, relative, at which the statistics are taken to be final: a tenth of what moves a
weight beyond verification's tolerance for half precision, and far below what sampling the images costs."""


class Batches(Protocol):
    """Batches that can be gone through more than once, such as a list of them or a DataLoader."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


def variance_of(norm: Any) -> Tensor:
    """A norm's running variance with eps, (C,), in its dtype."""
    variance: Tensor = norm.running_var + norm.eps
    return variance


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
    mean, var = stats.mean.to(norm.running_mean), stats.unbiased_var.to(norm.running_var)
    if not bool(torch.isfinite(var).all() and torch.isfinite(mean).all()):
        why = f"they overflow {norm.running_var.dtype}"
        remedy = "use a norm of a wider dtype, or check the weights: activations grow from layer to layer"
        raise InputRejectedError("the norm's statistics cannot be held", where=name, why=why, remedy=remedy)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)


def held_statistics(norm: Any) -> tuple[Tensor, Tensor]:
    """What a norm subtracts and divides by: running mean, and running variance with eps; float64 copies, (C,) each."""
    return norm.running_mean.to(torch.float64, copy=True), variance_of(norm).double()


def moved(before: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor]) -> float:
    """Largest change of a scale, relative, or of a mean, in standard deviations of the channel as the norm sees it."""
    means, variances = zip(before, now, strict=True)
    scales = (variances[0] / variances[1]).sqrt() - 1
    return max(float(scales.abs().max()), float(((means[1] - means[0]).abs() / variances[1].sqrt()).max()))
