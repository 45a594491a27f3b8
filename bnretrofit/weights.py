"""Two weights, each perhaps with a norm's scale still to be applied -> how far they differ, without a float64 copy."""

import math
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from bnretrofit.affine import row_blocks

__all__ = ["Weight", "weight_error"]


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor that a graph reads.

    Attributes:
        name: Its name, for messages.
        tensor: Its value, before the factor.
        factor: float64, to be multiplied with it (see `affine.channel_factor`); None for none.
    """

    name: str
    tensor: Tensor
    factor: Tensor | None = None


def weight_error(a: Weight, b: Weight, *, exact: bool) -> float:
    """0.0 if equal, else the largest difference relative to the largest element.

    Infinite where the shapes differ or, if exact, the dtypes or memory layouts; NaN where an element is not finite.
    """
    if a.tensor.shape != b.tensor.shape or (exact and _kept(a.tensor) != _kept(b.tensor)):
        return math.inf
    plain = a.factor is None and b.factor is None
    if plain and a.tensor.dtype == b.tensor.dtype and torch.equal(a.tensor, b.tensor.to(a.tensor.device)):
        return 0.0
    worst, largest = 0.0, 0.0
    blocks = zip(_blocks(a), _blocks(b), strict=False)
    for (mine, my_factor), (other, its_factor) in blocks:
        left, right = _scaled(mine, my_factor), _scaled(other, its_factor).to(mine.device)
        found = torch.stack([_largest(left - right), _largest(left), _largest(right)]).tolist()
        if not all(map(math.isfinite, found)):
            return math.nan
        worst, largest = max(worst, found[0]), max(largest, *found[1:])
    return worst / largest if largest else 0.0


def _blocks(weight: Weight) -> Any:
    tensor = weight.tensor if weight.tensor.dim() else weight.tensor.view(1)
    if weight.factor is None:
        return zip(*row_blocks(tensor), repeat(None), strict=False)
    return zip(*row_blocks(tensor, weight.factor), strict=True)


def _scaled(block: Tensor, factor: Tensor | None) -> Tensor:
    return block.double() if factor is None else block * factor


def _largest(block: Tensor) -> Tensor:
    # NaN and infinity go through, so that one number tells of both.
    return torch.linalg.vector_norm(block, math.inf) if block.numel() else block.new_zeros(())


def _kept(tensor: Tensor) -> tuple[Any, ...]:
    # Kernels round differently in another layout; the stride of a dimension of one says nothing.
    strides = tuple(stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)
    return tensor.dtype, tensor.device, strides
