"""A norm -> the layer after it that could take its scale and shift, as they arrive there on its input channels.

Between the two may stand what such a map passes through: dropout, rearrangements, average pooling, max pooling where
the scale is positive, reflecting padding, and other norms that are folded themselves.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from bnretrofit.affine import Affine
from bnretrofit.capture import Graph, op_of
from bnretrofit.hooks import has_hooks
from bnretrofit.layers import LAYER_OPS, kind_of
from bnretrofit.readers import readers

__all__ = ["Arrival", "arrival", "pads_with_zeros"]

_ALIKE = re.compile(r"aten\.((feature_|alpha_|feature_alpha_)?dropout_?|contiguous|clone|detach|alias)\.")
_REARRANGING = re.compile(
    r"aten\.(view(?!\.dtype)|_unsafe_view|reshape|flatten|unflatten|permute|transpose|movedim|squeeze|unsqueeze)\."
)
_AVERAGING = re.compile(r"aten\.(adaptive_avg_pool[123]d|avg_pool[123]d|mean)\.")
_MAXIMISING = re.compile(r"aten\.max_pool[123]d\.")


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a norm's map arrives.

    Attributes:
        call: The call of the layer that reads it.
        affine: The map on the layer's input channels: scale and shift (C_in,), float64.
        padded: Whether the layer pads with zeros: then a shift would be missing at the borders.
    """

    call: fx.Node
    affine: Affine
    padded: bool


def arrival(graph: Graph, norm: fx.Node, affine: Affine, *, folded: Collection[fx.Node]) -> Arrival | str:
    """Follow a norm's output to the next layer.

    Args:
        graph: The captured model.
        norm: A call of batch_norm.
        affine: Its map.
        folded: Norms that are folded forward themselves: the map passes through them.

    Returns:
        Where it arrives; or, as a sentence, why it does not.
    """
    value = norm.meta["val"]
    shape = [1, -1, *[1] * (value.dim() - 2)]
    state = [part.cpu().view(shape).expand(value.shape) for part in (affine.scale, affine.shift)]
    node = norm
    while True:
        if len(read_by := readers(node)) != 1:
            return f"its output is read by {len(read_by)} calls"
        before, (node,) = node, read_by
        if node.op != "call_function":
            return "its output is the model's own"
        if op_of(node) in LAYER_OPS:
            return _arrived(graph, before, node, state)
        if node in folded and node.args[0] is before:
            continue
        if has_hooks(graph.owner(node)):
            return f"{graph.place(node)} after it has hooks, which would see another value"
        passed = _passed(node, before, state)
        if passed is None:
            return f"{op_of(node)} in {graph.place(node)} stands between it and the next layer"
        state = passed


def _passed(node: fx.Node, before: fx.Node, state: list[Tensor]) -> list[Tensor] | None:
    """The map after an operator; None if it does not pass through."""
    value = node.meta.get("val")
    if node.all_input_nodes != [before] or node.args[0] is not before or not isinstance(value, Tensor):
        return None
    name, shape = op_of(node), value.shape
    if _ALIKE.match(name):
        silent = "dropout" not in name or node.args[2] is False
        return state if silent else None
    if _REARRANGING.match(name):
        # The very operator, on the map itself: what it does to the elements it does to their factors.
        operator: Any = node.target
        return [operator(part, *node.args[1:], **node.kwargs) for part in state]
    first = _constant_beyond_channels(state)
    pool = re.search(r"_pool(\d)d\.", name)
    if first is None or (pool is not None and state[0].dim() != int(pool[1]) + 2):
        return None
    fits = _averages(node) if _AVERAGING.match(name) else _maximises(node, first[0]) or _reflects(node)
    if not fits:
        return None
    flat = [part.view(part.shape[1]) for part in first]
    return [part.view(1, -1, *[1] * (len(shape) - 2)).expand(shape) for part in flat]


def _averages(node: fx.Node) -> bool:
    if op_of(node).startswith("aten.mean."):
        rank = node.args[0].meta["val"].dim()  # type: ignore[union-attr]
        dims = node.args[1] if len(node.args) > 1 else None
        return isinstance(dims, (list, tuple)) and sorted(int(str(dim)) % rank for dim in dims) == list(range(2, rank))
    if "adaptive" in op_of(node):
        return True
    # Zeros that are averaged in, or another divisor, would take a share of the shift away.
    padding: Any = node.args[3] if len(node.args) > 3 else 0
    divisor = node.args[6] if len(node.args) > 6 else None
    return not _any(padding) and divisor is None


def _maximises(node: fx.Node, scale: Tensor) -> bool:
    return _MAXIMISING.match(op_of(node)) is not None and bool((scale > 0).all())


def _reflects(node: fx.Node) -> bool:
    if not op_of(node).startswith("aten.pad.") or len(node.args) < 3 or str(node.args[2]) == "constant":
        return False
    # Sides of the spatial dimensions alone: unbatched inputs are padded along their channels too.
    sides: Any = node.args[1]
    return bool(len(sides) // 2 <= node.meta["val"].dim() - 2)


def _constant_beyond_channels(state: list[Tensor]) -> list[Tensor] | None:
    """The maps with one value per channel, (1, C, 1, ...); None if they vary within a channel."""
    if state[0].dim() < 3:
        return None
    first = [part[(slice(0, 1), slice(None), *[slice(0, 1)] * (part.dim() - 2))] for part in state]
    same = all(torch.equal(one.expand(part.shape), part) for one, part in zip(first, state, strict=True))
    return first if same else None


def _arrived(graph: Graph, before: fx.Node, call: fx.Node, state: list[Tensor]) -> Arrival | str:
    kind = kind_of(graph.owner(call))
    if call.args[0] is not before or before in call.args[1:]:
        return f"'{graph.owners[call]}' does not read it as its input"
    if kind is None:
        return f"the layer after it is a functional call in {graph.place(call)}"
    dim = state[0].dim() - 1 if kind.spatial is None else 1
    if kind.spatial is not None and state[0].dim() != kind.spatial + 2:
        return f"'{graph.owners[call]}' runs without a batch dimension"
    vectors = [part.movedim(dim, -1).reshape(-1, part.shape[dim]) for part in state]
    if not all(torch.equal(part[:1].expand(part.shape), part) for part in vectors):
        return f"its channels are not those that '{graph.owners[call]}' reads"
    affine = Affine(*(part[0].clone() for part in vectors))
    shifts = bool(affine.shift.count_nonzero())
    if kind.transposed and shifts:
        return f"'{graph.owners[call]}' is transposed: at the borders it reads fewer inputs, so a shift is no constant"
    return Arrival(call, affine, pads_with_zeros(call))


def pads_with_zeros(call: fx.Node) -> bool:
    """Whether a layer's call pads its input with zeros."""
    if "linear" in op_of(call) or "transpose" in op_of(call):
        return False
    padding: Any = call.args[4] if len(call.args) > 4 else call.kwargs.get("padding", 0)
    if isinstance(padding, str):
        kernel = call.args[1].meta["val"].shape[2:]  # type: ignore[union-attr]
        return padding == "same" and any(bool(size > 1) for size in kernel)
    return _any(padding)


def _any(padding: Any) -> bool:
    return any(map(bool, padding)) if isinstance(padding, (list, tuple)) else bool(padding)
