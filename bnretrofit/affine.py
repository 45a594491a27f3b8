"""Per-channel affine maps y = scale * x + shift in float64.

A BatchNorm with fixed statistics is one (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithm 2):

    scale = weight / sqrt(running_var + eps)        shift = bias - running_mean * scale
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Affine", "FixedNorm", "affine_of", "fixed_norm", "padding_value"]


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

    def then(self, later: "Affine") -> "Affine":
        """This map followed by another."""
        return Affine(later.scale * self.scale, torch.addcmul(later.shift, later.scale, self.shift))


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


def padding_value(affine: Affine) -> Tensor:
    """What has to be padded with before the map for zero to come out of it: (C,), float64; zero where nothing shifts.

    Infinite or NaN for channels that are shifted and scaled by zero.
    """
    return torch.where(affine.shift == 0, affine.shift, -affine.shift / affine.scale)
