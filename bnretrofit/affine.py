"""Per-channel affine maps y = scale * x + shift in float64, and their absorption into a layer's weights.

A BatchNorm with fixed statistics is one (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithm 2):

    scale = weight / sqrt(running_var + eps)        shift = bias - running_mean * scale

and a layer y = W x + b followed by it is the layer  (scale W) x + (scale b + shift).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "Affine",
    "FixedNorm",
    "absorb_backward",
    "absorbed_bias",
    "absorbed_weight",
    "affine_of",
    "channel_factor",
    "fixed_norm",
    "row_blocks",
]

BLOCK_ELEMENTS = 1 << 15
"""Elements of a weight held in float64 at a time: 256 kB, which stay in the cache. Kernels over no more than that run
in the calling thread alone; waiting for the others takes milliseconds while something else keeps them busy."""


@dataclass(frozen=True, slots=True)
class FixedNorm:
    """The tensors of a BatchNorm with running statistics: each (C,), in the norm's own dtype.

    Attributes:
        weight: Ones where the norm has none (affine=False).
        bias: Zeros where the norm has none.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Affine:
    """y = scale * x + shift per channel.

    Attributes:
        scale: Shape (C,), float64.
        shift: Shape (C,), float64.
    """

    scale: Tensor
    shift: Tensor

    def where(self, keep: Tensor) -> "Affine":
        """The same map with the channels of `keep` (bool, shape (C,)) replaced by the exact identity."""
        return Affine(self.scale.masked_fill(keep, 1.0), self.shift.masked_fill(keep, 0.0))


def fixed_norm(norm: nn.Module) -> FixedNorm:
    """The tensors of a BatchNorm.

    Args:
        norm: A BatchNorm with running statistics; `weight` and `bias` may be None.

    Raises:
        TypeError: It keeps no running statistics.
    """
    mean, var = norm.running_mean, norm.running_var
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor):
        raise TypeError("a norm without running statistics has no fixed affine map")
    mean, var = mean.detach(), var.detach()
    weight, bias = norm.weight, norm.bias
    eps: Any = norm.eps
    return FixedNorm(
        mean,
        var,
        weight.detach() if isinstance(weight, Tensor) else torch.ones_like(mean),
        bias.detach() if isinstance(bias, Tensor) else torch.zeros_like(mean),
        float(eps),
    )


def affine_of(norm: nn.Module) -> Affine:
    """The affine map of a BatchNorm with fixed statistics, in float64 on the norm's device.

    Raises:
        TypeError: It keeps no running statistics.
    """
    fixed = fixed_norm(norm)
    scale = fixed.weight.double() / (fixed.var.double() + fixed.eps).sqrt()
    return Affine(scale, fixed.bias.double() - fixed.mean.double() * scale)


def absorb_backward(
    weight: Tensor, bias: Tensor | None, affine: Affine, *, transposed: bool, groups: int
) -> tuple[Tensor, Tensor | None]:
    """Weights of the layer followed by the map: computed in float64, rounded once to the weight's dtype.

    Channels on which the map is the exact identity keep their bits.

    Args:
        weight: (C_out, C_in / groups, *kernel), or (C_in, C_out / groups, *kernel) when transposed, or (C_out, C_in).
        bias: (C_out,), or None.
        affine: The map applied to the layer's output.
        transposed: Whether the weight is laid out as a transposed convolution's.
        groups: The convolution's groups; 1 for a dense layer.

    Returns:
        New weight and bias; the bias is None only if it was None and every shift is zero.
    """
    new_weight = absorbed_weight(weight.detach(), affine, transposed=transposed, groups=groups)
    if bias is None and not bool(affine.shift.count_nonzero()):
        return new_weight, None
    dtype = weight.dtype if bias is None else bias.dtype
    return new_weight, absorbed_bias(bias, affine).to(dtype)


def absorbed_bias(bias: Tensor | None, affine: Affine) -> Tensor:
    """The bias of the layer followed by the map: (C,), float64."""
    old_bias = torch.zeros_like(affine.shift) if bias is None else bias.detach().double()
    untouched = (affine.scale == 1) & (affine.shift == 0)
    # Adding a zero would turn a bias of -0.0 into 0.0.
    return torch.where(untouched, old_bias, torch.addcmul(affine.shift, old_bias, affine.scale))


def absorbed_weight(weight: Tensor, affine: Affine, *, transposed: bool, groups: int) -> Tensor:
    """The weight of the layer followed by the map, in the weight's own shape and dtype (see `absorb_backward`)."""
    factor = channel_factor(weight, affine.scale, transposed=transposed, groups=groups)
    result = torch.empty_like(weight)
    for part, source, scale in zip(*row_blocks(result, weight, factor), strict=True):
        # A product with a float64 tensor is float64.
        part.copy_(source * scale)
    return result


def channel_factor(weight: Tensor, scale: Tensor, *, transposed: bool, groups: int) -> Tensor:
    """A factor per output channel, shaped so that `weight * factor` scales the layer's output channels.

    Args:
        weight: See `absorb_backward`.
        scale: (C_out,).
        transposed: See `absorb_backward`.
        groups: See `absorb_backward`.

    Returns:
        (C_out, 1, ...), or (C_in, C_out / groups, 1, ...) when transposed.
    """
    if not transposed:
        return scale.view(-1, *[1] * (weight.dim() - 1))
    # Transposed layout: input channels first, and output channel g * (C_out / groups) + j stands at [group g, :, j].
    rows = scale.view(groups, weight.shape[1]).repeat_interleave(weight.shape[0] // groups, 0)
    return rows.view(*rows.shape, *[1] * (weight.dim() - 2))


def row_blocks(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Several tensors of equal first size, each split into blocks of rows, as long as suits the first of them."""
    rows = max(1, BLOCK_ELEMENTS // max(1, tensors[0][:1].numel()))
    return [tensor.split(rows) for tensor in tensors]
