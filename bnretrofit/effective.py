"""A layer's call in a graph -> its tensors with the norms beside it absorbed, and its other arguments in full."""

from typing import Any

import torch
from torch import fx

from bnretrofit.absorbing import absorbed_bias, shifted_bias, weight_factors
from bnretrofit.affine import Affine, padding_value
from bnretrofit.capture import Graph
from bnretrofit.forwarding import pads_with_zeros
from bnretrofit.layers import kind_of
from bnretrofit.norm_calls import effective_affine
from bnretrofit.standing import ChannelPad
from bnretrofit.weights import Weight

__all__ = ["effective_tensors", "padded_with", "reads_own_tensors", "settings"]


def reads_own_tensors(graph: Graph, call: fx.Node) -> bool:
    """Whether a layer's weight and bias are tensors of the model, and not computed from others."""
    bias = call.args[2] if len(call.args) > 2 else None
    known = kind_of(graph.owner(call)) is not None and graph.tensor(call.args[1]) is not None
    return known and (bias is None or graph.tensor(bias) is not None)


def effective_tensors(graph: Graph, call: fx.Node, norm: fx.Node | None, before: Affine | None) -> list[Weight]:
    """A layer's weight and bias (of zeros, where it has none) with what stands beside it absorbed, in float64.

    Args:
        graph: The captured model.
        call: The layer's call; it reads its own tensors.
        norm: The norm after it.
        before: The map on its input.
    """
    weight, bias = graph.tensor(call.args[1]), graph.tensor(call.args[2] if len(call.args) > 2 else None)
    layer = graph.owner(call)
    kind = kind_of(layer)
    if weight is None or kind is None:
        raise TypeError(f"{graph.place(call)} computes its weight")
    after = None if norm is None else effective_affine(graph, norm)
    plain, groups = weight.tensor.detach(), int(getattr(layer, "groups", 1))
    full_bias = plain.new_zeros(kind.channels(layer), dtype=torch.float64) if bias is None else bias.tensor.detach()
    if before is not None and not kind.transposed:
        moved = shifted_bias(plain, full_bias, before.shift, groups=groups)
        full_bias = full_bias if moved is None else moved
    if after is not None:
        full_bias = absorbed_bias(full_bias, after)
    factors = weight_factors(plain, after, before, transposed=kind.transposed, groups=groups)
    suffix = "" if norm is None else f" with '{graph.owners[norm]}' absorbed"
    bias_name = bias.name if bias is not None else f"{graph.owners[call]}.bias"
    weight_leaf, bias_leaf = Weight(weight.name + suffix, plain, factors), Weight(bias_name + suffix, full_bias)
    return [weight_leaf, bias_leaf]


def settings(graph: Graph, call: fx.Node) -> list[str]:
    """The other arguments of a layer's call, all of them, with the padding that stands before it as its own."""
    schema: Any = call.target._schema  # type: ignore[union-attr] # noqa: SLF001 - torch has no public name for it
    names = [argument.name for argument in schema.arguments]
    given = {argument.name: argument.default_value for argument in schema.arguments}
    given |= dict(zip(names, call.args, strict=False)) | call.kwargs
    if (pad := _pad_of(graph, call)) is not None:
        given["padding"] = list(pad.padding)
    return [f"{name}={given[name]!r}" for name in names[3:]]


def padded_with(graph: Graph, call: fx.Node, before: Affine | None) -> list[Weight]:
    """What a convolution's input is padded with, as (C_in,), before the norm that it absorbs; nothing if it is not."""
    pad = _pad_of(graph, call)
    name = f"padding of {graph.owners[call]}"
    if pad is not None:
        return [Weight(name, pad.value)]
    layer = graph.owner(call)
    if not pads_with_zeros(call) or not hasattr(layer, "in_channels"):
        return []
    if before is None:
        return [Weight(name, torch.zeros(int(str(layer.in_channels)), dtype=torch.float64))]
    return [Weight(name, padding_value(before))]


def _pad_of(graph: Graph, call: fx.Node) -> ChannelPad | None:
    # Judged by what ran before the call: the padding may have been gone around.
    source = call.args[0]
    padding = graph.owner(source) if isinstance(source, fx.Node) and source.op == "call_function" else None
    return padding if isinstance(padding, ChannelPad) else None
