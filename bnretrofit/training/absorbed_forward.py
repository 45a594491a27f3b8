"""Forwards that stand in for a layer's and its norm's while the norm's statistics are fixed.

    weight * (W x + b - mean) / sqrt(var + eps) + bias  =  (scale W) x + shift
    scale = weight / sqrt(var + eps)        shift = bias + scale * (b - mean)

Gradients flow to W, b, weight and bias. Scaling W is a pass over W, and the scaled W is kept for the backward pass;
normalising the output is a pass over the output, which is kept. So whichever has fewer elements is taken.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnretrofit.absorbing import channel_factor
from bnretrofit.errors import InputRejectedError
from bnretrofit.layers import LayerKind, kind_of

__all__ = ["forward_in_eval_mode", "forward_normalised", "forward_rest"]


def forward_in_eval_mode(norm: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A norm's own forward, as if the norm, but not what it calls, were in eval mode."""
    training, norm.training = norm.training, False
    try:
        return forward(*args, **kwargs)
    finally:
        norm.training = training


def forward_rest(norm: nn.Module, input: Tensor) -> Tensor:  # noqa: A002 - the name by which norms take it
    """What a norm does after normalising: timm's call a dropout and an activation."""
    for child in norm.children():
        input = child(input)  # noqa: A001 - the same tensor, further on
    return input


def forward_normalised(layer: nn.Module, norm: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    """A layer's output, normalised.

    Args:
        layer: A convolution or dense layer of the table in `bnretrofit.layers`.
        norm: A BatchNorm with running statistics over its output's channels.
        args: What the layer takes: (N, C_in, *S), or (N, *S, C_in) for a dense one.
        kwargs: The same by keyword.

    Returns:
        (N, C_out, *S), or (N, *S, C_out) for a dense layer, in the dtype in which the layer computes.

    Raises:
        InputRejectedError: The input has no batch dimension.
    """
    kind, weight = kind_of(layer), layer.get_parameter("weight")
    if kind is None:
        raise TypeError(f"a {type(layer).__name__} is no convolution or dense layer")
    if weight.numel() > _output_size(layer, kind, args[0] if args else kwargs["input"]):
        return _output_normalised(type(layer).forward(layer, *args, **kwargs), norm, kind)
    scale, shift = _scale_and_shift(norm, layer._parameters.get("bias"))
    factor = channel_factor(weight, scale, transposed=kind.transposed, groups=int(getattr(layer, "groups", 1)))
    held = layer._parameters
    try:
        # Its own forward, which knows its padding mode, its output_size and whatever else, reads what stands here.
        scaled = {"weight": (weight * factor).to(weight.dtype), "bias": shift.to(weight.dtype)}
        vars(layer)["_parameters"] = {**held, **scaled}
        result: Tensor = type(layer).forward(layer, *args, **kwargs)
    finally:
        vars(layer)["_parameters"] = held
    return result


def _output_size(layer: nn.Module, kind: LayerKind, x: Tensor) -> float:
    """About how many elements a layer's output has: at the borders, a convolution may have some more or less."""
    dim = kind.channel_dim(x.dim())
    if dim is None:
        name = type(layer).__name__
        raise InputRejectedError(
            f"a {name} with a BatchNorm after it takes batches", why=f"it was given {x.dim()} dimensions"
        )
    size = x.numel() / max(1, x.shape[dim]) * kind.channels(layer)
    steps = float(prod(getattr(layer, "stride", ())))
    return size * steps if kind.transposed else size / steps


def _scale_and_shift(norm: Any, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The norm's map, on the output of the layer without its bias: scale and shift (C,), in the norm's dtype."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    centre = -norm.running_mean if bias is None else bias - norm.running_mean
    return scale, centre * scale if norm.bias is None else torch.addcmul(norm.bias, centre, scale)


def _output_normalised(output: Tensor, norm: Any, kind: LayerKind) -> Tensor:
    """A layer's output, normalised by torch's own kernel, which has the fewest passes."""
    rows = output.flatten(0, -2) if kind.channel_dim(output.dim()) == -1 else output
    mean, var = norm.running_mean, norm.running_var
    result = F.batch_norm(rows, mean, var, norm.weight, norm.bias, False, 0.0, norm.eps)
    # A view would cost an activation in place a copy.
    return result if rows is output else result.view(output.shape)
