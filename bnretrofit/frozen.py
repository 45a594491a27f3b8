"""FrozenBatchNorm written out as arithmetic -> one batch_norm call in the graph, so that everything else knows it.

torchvision's and timm's frozen norms compute x * scale + shift from their buffers, with the reshapes and the root in
the graph. Only that very arithmetic is recognised; anything else is left as it is.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

__all__ = ["join_frozen_norms"]

NO_MOMENTUM = -1.0
"""No BatchNorm has it: so a proof tells the two kernels apart, which round differently."""

LEAVES = ("weight", "bias", "running_mean", "running_var")


def join_frozen_norms(graph: fx.Graph, names: Callable[[fx.Node], str | None]) -> None:
    """Replace, in place, each frozen norm's arithmetic by a call of batch_norm on the same tensors.

    Args:
        graph: The exported graph.
        names: The dotted name of the tensor that a node stands for; None for any other node.
    """
    for node in list(graph.nodes):
        found = _matched(node, names)
        if found is None:
            continue
        source, tensors, eps = found
        with graph.inserting_after(node):
            norm = graph.call_function(
                torch.ops.aten.batch_norm.default, (source, *tensors, False, NO_MOMENTUM, eps, False)
            )
        norm.meta = dict(node.meta)
        node.replace_all_uses_with(norm)
        _erase(graph, node)


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    # Not eliminate_dead_code, which would take a model's own dead branches, too.
    if node.op == "call_function" and not node.users:
        read = node.all_input_nodes
        graph.erase_node(node)
        for source in read:
            _erase(graph, source)


def _matched(node: fx.Node, names: Callable[[fx.Node], str | None]) -> tuple[Any, list[Any], float] | None:
    """X * scale + (bias - mean * scale) with scale = weight * rsqrt(var + eps): its input, tensors and eps."""
    product, shift = _operands(node, "aten.add.Tensor")
    source, scale = _operands(product, "aten.mul.Tensor")
    weight, root = _operands(scale, "aten.mul.Tensor")
    (summed,) = _operands(root, "aten.rsqrt.default", 1)
    var, eps = _operands(summed, "aten.add.Tensor")
    bias, moved = _operands(shift, "aten.sub.Tensor")
    mean, same_scale = _operands(moved, "aten.mul.Tensor")
    if same_scale is None or same_scale is not scale or not isinstance(eps, float):
        return None
    reshapes = [_operands(reshaped, "aten.reshape.default") for reshaped in (weight, bias, mean, var)]
    # Along dimension 1 of an image: on another rank, the same arithmetic is along another dimension.
    images = all(shape == [1, -1, 1, 1] for _, shape in reshapes) and _shape(source) == _shape(node)
    if not images or len(_shape(node)) != 4:
        return None
    tensors = [tensor for tensor, _ in reshapes]
    held = [names(tensor) if isinstance(tensor, fx.Node) else None for tensor in tensors]
    holder = (held[0] or "").rpartition(".")[0]
    wanted = [f"{holder}.{leaf}".lstrip(".") for leaf in LEAVES]
    return (source, tensors, eps) if held == wanted and isinstance(source, fx.Node) else None


def _shape(node: Any) -> tuple[int, ...]:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(getattr(value, "shape", ()))


def _operands(node: Any, op: str, count: int = 2) -> tuple[Any, ...]:
    """Arguments of a call of that operator; Nones for anything else."""
    if isinstance(node, fx.Node) and str(node.target) == op and len(node.args) == count and not node.kwargs:
        return node.args
    return (None,) * count
