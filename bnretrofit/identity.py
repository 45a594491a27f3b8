"""ChannelStats -> BatchNorm parameters that the running kernel treats as the identity, found by asking that kernel.

In real arithmetic weight = sqrt(var + eps) and bias = mean make a BatchNorm with those statistics the identity. In
floating point about one channel in four misses by an ulp. Torch's CPU kernel computes x * a + b with one a and b per
channel, so feeding it ones (mean and bias zero) reads a, and feeding it zeros reads b. Moving running_var by single
ulps of var + eps, and weight by single ulps, finds a == 1 and b == 0: then the output is the input for every finite x.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnretrofit.affine import fixed_norm
from bnretrofit.errors import InputRejectedError
from bnretrofit.moments import ChannelStats

__all__ = [
    "IdentityParameters",
    "effective",
    "identity_channels",
    "identity_parameters",
    "kernel_is_exact",
    "set_identity",
]

SEARCH_STEPS = 64
"""Ulps of var + eps tried on either side. 100,000 channels with variances from 0 to 100 needed at most 13."""

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]


def batch_norm_kernel(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Torch's own BatchNorm kernel with fixed statistics."""
    return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)


@dataclass(frozen=True, slots=True)
class IdentityParameters:
    """Parameters of an identity BatchNorm, each (C,), and the channels on which it is exact.

    Attributes:
        exact: (C,), bool: the kernel's factor is 1.0 and its summand 0.0; whether that means the identity for every x,
            `kernel_is_exact` says.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor
    exact: Tensor


def identity_parameters(
    mean: Tensor,
    var: Tensor,
    eps: float,
    *,
    dtype: torch.dtype,
    device: torch.device,
    kernel: Kernel = batch_norm_kernel,
) -> IdentityParameters:
    """Find statistics, weight and bias with which the kernel returns its input.

    Args:
        mean: (C,), float64.
        var: (C,), float64, unbiased; the running_var to start from.
        eps: The norm's eps.
        dtype: Dtype of the norm's parameters.
        device: The device whose kernel is asked.
        kernel: The kernel to ask.

    Returns:
        The parameters nearest to the statistics; where a channel has no exact solution, real arithmetic's.

    Raises:
        InputRejectedError: A statistic is not finite in `dtype`.
    """
    mean, target = mean.to(device, dtype), var.to(device, dtype)
    if not bool(torch.isfinite(mean).all() and torch.isfinite(target).all()):
        raise InputRejectedError("a mean or variance is not finite", why=f"it overflows {dtype}, or the activations do")
    best_var, best_weight = target.clone(), _weight_for(target, eps)
    open_channels = _factor(kernel, best_var, best_weight, eps) != 1
    ulp = _up(target + eps) - (target + eps)
    for step in range(SEARCH_STEPS):
        if not bool(open_channels.any()):
            break
        for sign in (1, -1) if step else (1,):
            candidate = (target + sign * step * ulp).clamp_min(0)
            middle = _weight_for(candidate, eps)
            for weight in (middle, _up(middle), _down(middle)):
                hit = open_channels & (_factor(kernel, candidate, weight, eps) == 1)
                best_var, best_weight = torch.where(hit, candidate, best_var), torch.where(hit, weight, best_weight)
                open_channels = open_channels & ~hit
    summand = kernel(torch.zeros(1, len(mean), dtype=dtype, device=device), mean, best_var, best_weight, mean, eps)[0]
    return IdentityParameters(mean, best_var, best_weight, mean.clone(), ~open_channels & (summand == 0))


def set_identity(norm: nn.Module, stats: ChannelStats) -> Tensor:
    """Set a BatchNorm to the identity with a layer's statistics.

    Args:
        norm: The norm, edited in place.
        stats: Statistics of what it will read.

    Returns:
        (C,), bool: the channels on which it is the kernel's exact identity.

    Raises:
        InputRejectedError: A statistic is not finite in the norm's dtype.
    """
    held = fixed_norm(norm)
    found = identity_parameters(
        stats.mean, stats.unbiased_var, held.eps, dtype=held.mean.dtype, device=held.mean.device
    )
    # The tensors are views of the norm's own, so this sets them.
    for tensor, value in (
        (held.mean, found.mean),
        (held.var, found.var),
        (held.weight, found.weight),
        (held.bias, found.bias),
    ):
        tensor.copy_(value)
    return found.exact & kernel_is_exact(norm)


def effective(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The factor and summand per channel that the running kernel applies, as far as probing with 0 and 1 shows them.

    Args:
        norm: A BatchNorm with running statistics; weight and bias may be None.

    Returns:
        Factor a and summand b, each (C,), in the dtype of the statistics.
    """
    held = fixed_norm(norm)
    zeros = torch.zeros(1, len(held.mean), dtype=held.mean.dtype, device=held.mean.device)
    summand = batch_norm_kernel(zeros, held.mean, held.var, held.weight, held.bias, held.eps)[0]
    return _factor(batch_norm_kernel, held.var, held.weight, held.eps), summand


def identity_channels(norm: nn.Module) -> Tensor:
    """(C,), bool: the channels on which the kernel's factor is 1.0 and its summand 0.0; none if another kernel runs."""
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - torch has no public name for all of them
        return torch.zeros_like(fixed_norm(norm).mean, dtype=torch.bool)
    factor, summand = effective(norm)
    # Probing in half precision rounds a factor near 1 to 1: there no channel is taken for the identity.
    return (factor == 1) & (summand == 0) & (factor.dtype in (torch.float32, torch.float64))


def kernel_is_exact(norm: nn.Module) -> bool:
    """Whether the device's kernel computes x * a + b, so that a == 1 and b == 0 mean the exact identity.

    A kernel that computes (x - mean) * s + bias loses the low bits of a small x beside a large mean, and shows it here.
    """
    held = fixed_norm(norm)
    dtype, device = held.mean.dtype, held.mean.device
    x = torch.tensor([1e-3, -7e-5, 0.3, 5.0], dtype=dtype, device=device)[:, None]
    offset, var = (torch.full((1,), value, dtype=torch.float64) for value in (4097.0, 3.0))
    found = identity_parameters(offset, var, held.eps, dtype=dtype, device=device)
    return bool(torch.equal(batch_norm_kernel(x, found.mean, found.var, found.weight, found.bias, held.eps), x))


def _factor(kernel: Kernel, var: Tensor, weight: Tensor, eps: float) -> Tensor:
    zeros = torch.zeros_like(var)
    return kernel(torch.ones(1, len(var), dtype=var.dtype, device=var.device), zeros, var, weight, zeros, eps)[0]


def _weight_for(var: Tensor, eps: float) -> Tensor:
    return (var.double() + eps).sqrt().to(var.dtype)


def _up(value: Tensor) -> Tensor:
    return torch.nextafter(value, torch.full_like(value, torch.inf))


def _down(value: Tensor) -> Tensor:
    return torch.nextafter(value, torch.full_like(value, -torch.inf))
