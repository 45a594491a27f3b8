"""Inputs that nobody chose: random ones, and those at the ends of what a number can be."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from bnretrofit.batches import Batch, map_tensors

__all__ = ["EXTREMES", "RANDOM_SAMPLES", "extreme_like", "first_samples", "is_floating", "random_like"]

RANDOM_SAMPLES = 4
RANDOM_SEED = 20150211

HUGE, HUGE_IN_HALF = 1e6, 1e3
"""Far beyond any image, and yet no reason for a sound network to overflow."""


def random_like(batch: Batch) -> Batch:
    """Standard normal inputs of the batch's shapes, a few samples of them."""
    generator = torch.Generator().manual_seed(RANDOM_SEED)
    return map_tensors(lambda tensor: torch.randn(_shape(tensor), generator=generator).to(tensor.dtype), batch)


def extreme_like(kind: str, batch: Batch, dtypes: Collection[torch.dtype]) -> Batch:
    """One sample of an extreme kind, of the batch's shapes.

    Args:
        kind: One of `EXTREMES`.
        batch: One whose inputs are all floating-point tensors.
        dtypes: Of the models.
    """
    huge = HUGE_IN_HALF if torch.float16 in dtypes else HUGE
    return map_tensors(lambda tensor: EXTREMES[kind](tensor, _shape(tensor, 1), huge).to(tensor.dtype), batch)


def first_samples(batch: Batch, most: int) -> Batch:
    """At most so many samples of a batch."""
    return map_tensors(lambda tensor: tensor[:most] if tensor.dim() else tensor, batch)


def is_floating(batch: Batch) -> bool:
    """Whether all tensors of a batch are floating-point ones: others cannot take any value."""
    whole = True

    def look(tensor: Tensor) -> Tensor:
        nonlocal whole
        whole &= tensor.dtype.is_floating_point
        return tensor

    map_tensors(look, batch)
    return whole


def _shape(tensor: Tensor, most: int = RANDOM_SAMPLES) -> tuple[int, ...]:
    return (min(len(tensor), most), *tensor.shape[1:]) if tensor.dim() else ()


def _signs(shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(RANDOM_SEED)
    return torch.randint(2, shape, generator=generator) * 2.0 - 1.0


def _denormal(tensor: Tensor, shape: tuple[int, ...], _huge: float) -> Tensor:
    return _signs(shape).to(tensor.dtype) * (torch.finfo(tensor.dtype).tiny / 4)


def _saturated(tensor: Tensor, shape: tuple[int, ...], _huge: float) -> Tensor:
    """Every element at one end of the batch's own range or at the other: an image of black and white alone."""
    finite = tensor.detach().float().cpu()
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
    low, high = (low, high) if low < high else (-3.0, 3.0)
    return torch.where(_signs(shape) > 0, high, low)


EXTREMES: dict[str, Callable[[Tensor, tuple[int, ...], float], Tensor]] = {
    "zeros": lambda _tensor, shape, _huge: torch.zeros(shape),
    "ones": lambda _tensor, shape, _huge: torch.ones(shape),
    "huge": lambda _tensor, shape, huge: _signs(shape) * huge,
    "denormal": _denormal,
    "saturated": _saturated,
}
"""By kind: a batch's tensor, the shape that is wanted and what is huge -> the values."""
