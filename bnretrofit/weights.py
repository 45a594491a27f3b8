"""Two weights, each perhaps with a norm's scale still to be applied -> how far they differ, without a float64 copy."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bnretrofit.absorbing import row_blocks

__all__ = ["Weight", "weight_error"]


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor that a graph reads.

    Attributes:
        name: Its name, for messages.
        tensor: Its value, before the factor.
        factors: float64, to be multiplied with it (see `absorbing.weight_factors`).
    """

    name: str
    tensor: Tensor
    factors: tuple[Tensor, ...] = ()


SMALL_ELEMENT = 1e-3
"""An element below this share of its tensor's largest is judged as if it were that large: half precision rounds it, and
what it does to an output is little."""


def weight_error(a: Weight, b: Weight, *, exact: bool) -> float:
    """0.0 if equal, else the largest difference of an element, relative to that element.

    Norms multiply weights, which keeps every element's relative precision, so that one weight off by 1 % shows beside
    larger ones. A bias is a sum, in which digits cancel: tensors of one dimension are judged by their largest element.

    Infinite where the shapes differ or, if exact, the dtypes or memory layouts; NaN where an element is not finite.
    """
    if a.tensor.shape != b.tensor.shape or (exact and _kept(a.tensor) != _kept(b.tensor)):
        return math.inf
    plain = not a.factors and not b.factors
    if plain and a.tensor.dtype == b.tensor.dtype and torch.equal(a.tensor, b.tensor.to(a.tensor.device)):
        return 0.0
    worst, largest = 0.0, 0.0
    for left, right in _products(a, b):
        found = torch.stack([_largest(left - right), _largest(left), _largest(right)]).tolist()
        if not all(map(math.isfinite, found)):
            return math.nan
        worst, largest = max(worst, found[0]), max(largest, *found[1:])
    if not worst or a.tensor.dim() < 2:
        return worst / largest if largest else 0.0
    least, slack = SMALL_ELEMENT * largest, max(_half_step(a.tensor.dtype), _half_step(b.tensor.dtype))
    return max(_largest_share(left, right, least, slack) for left, right in _products(a, b) if left.numel())


def _largest_share(left: Tensor, right: Tensor, least: float, slack: float) -> float:
    """The largest difference of an element, as far as it is beyond the slack, relative to it or to the least one."""
    beyond = ((left - right).abs() - slack).clamp_min(0)
    return float((beyond / torch.maximum(left.abs(), right.abs()).clamp_min(least)).max())


def _half_step(dtype: torch.dtype) -> float:
    """Half the distance of the smallest numbers of a dtype, to which it rounds whatever is near zero."""
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps / 2 if dtype.is_floating_point else 0.0


def _products(a: Weight, b: Weight) -> Iterator[tuple[Tensor, Tensor]]:
    for mine, other in zip(_blocks(a), _blocks(b), strict=True):
        yield _product(mine), _product(other).to(mine[0].device)


def _blocks(weight: Weight) -> Iterator[tuple[Tensor, ...]]:
    tensor = weight.tensor if weight.tensor.dim() else weight.tensor.view(1)
    return zip(*row_blocks(tensor, *weight.factors), strict=True)


def _product(block: tuple[Tensor, ...]) -> Tensor:
    tensor, *factors = block
    for factor in factors:
        tensor = tensor * factor
    return tensor.double()


def _largest(block: Tensor) -> Tensor:
    # NaN and infinity go through, so that one number tells of both.
    return torch.linalg.vector_norm(block, math.inf) if block.numel() else block.new_zeros(())


def _kept(tensor: Tensor) -> tuple[Any, ...]:
    # Kernels round differently in another layout; the stride of a dimension of one says nothing.
    strides = tuple(stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)
    return tensor.dtype, tensor.device, strides
