"""What stands around a layer in a captured graph: what follows it, and which layers make the model's output."""

import re

from torch import fx

from bnretrofit.capture import Graph, inputs_of, op_of
from bnretrofit.layers import LAYER_OPS, kind_of
from bnretrofit.readers import readers

__all__ = ["NORM_OPS", "following_norm", "normalises", "output_layers", "rearranges"]

NORM_OPS = ("aten.batch_norm.", "aten.layer_norm.", "aten.group_norm.", "aten.instance_norm.", "aten.rms_norm.")

# Rearrangements of a tensor: its values stay what they are.
_SHAPE_OPS = re.compile(
    r"aten\.(view(?!\.dtype)|_unsafe_view|reshape|flatten|permute|transpose|movedim|squeeze|unsqueeze|contiguous|clone|to|expand|"
    r"unflatten|slice|select|getitem|detach|alias)\.|^<built-in function getitem>"
)
# What may stand between the layer that makes an output and the output itself, besides rearrangements.
_READOUT_OPS = re.compile(
    r"aten\.(mean|avg_pool|adaptive_avg_pool|adaptive_max_pool|upsample|softmax|log_softmax|sigmoid|tanh|dropout|"
    r"feature_dropout|pixel_shuffle|pad|constant_pad)"
)
# With one tensor among their arguments, these only rescale by a constant.
_RESCALING = re.compile(r"aten\.(add|sub|mul|div)\.")
_NORM_CLASS = re.compile(r"(Norm|RMS)(Act)?(\dd)?$", re.IGNORECASE)


def following_norm(graph: Graph, node: fx.Node) -> str | None:
    """The module that normalises a call's output, if nothing else reads it.

    Args:
        graph: The captured model.
        node: A call of a layer.

    Returns:
        "BatchNorm2d 'layer1.0.bn1'", or None.
    """
    while len(read_by := readers(node)) == 1:
        (node,) = read_by
        if node.op != "call_function":
            return None
        if normalises(graph, node):
            return f"{type(graph.owner(node)).__name__} '{graph.owners[node]}'"
        if not rearranges(node):
            return None
    return None


def normalises(graph: Graph, node: fx.Node) -> bool:
    """Whether a call is a norm's, or a part of one; a class that is called so and holds layers is none."""
    owner = graph.owner(node)
    if op_of(node).startswith(NORM_OPS):
        return True
    called_so = _NORM_CLASS.search(type(owner).__name__) is not None
    return called_so and all(kind_of(module) is None for module in owner.modules())


def rearranges(node: fx.Node) -> bool:
    """Whether a call gives a tensor's values another shape, order or place, and no other values."""
    return bool(_SHAPE_OPS.search(op_of(node)))


def output_layers(graph: Graph, *, behind_norms: bool = False) -> set[fx.Node]:
    """The calls of layers that make the model's output: the logits of a classifier, the last conv of a denoiser.

    A result of shape (N, K) is traced back through anything that reads one tensor; any other result only through what
    rearranges, pools or resizes, since an activation there means features rather than predictions.

    Args:
        graph: The captured model.
        behind_norms: Also where a norm stands between a layer and the output.
    """
    found: set[fx.Node] = set()
    for result in inputs_of(graph.output):
        value = result.meta.get("val")
        any_op = getattr(value, "ndim", 0) == 2
        found |= _makers(graph, result, any_op=any_op, joins=1, behind_norms=behind_norms) or set()
    return found


def _makers(graph: Graph, node: fx.Node, *, any_op: bool, joins: int, behind_norms: bool) -> set[fx.Node] | None:
    """Layers behind a result: an empty set if the model's input is reached, None if something else stands between."""
    while True:
        if op_of(node) in LAYER_OPS:
            return {node}
        if node in graph.inputs:
            return set()
        read = inputs_of(node)
        if behind_norms and op_of(node).startswith("aten.batch_norm."):
            read = read[:1]
        if any(graph.tensor(source) is not None for source in read) or not read:
            return None
        if len(read) > 1:
            break
        name = op_of(node)
        if not any_op and not (rearranges(node) or _READOUT_OPS.search(name) or _RESCALING.match(name)):
            return None
        (node,) = read
    # Two heads averaged, or an input added to a residual: one join, since a trunk of residual blocks is no head.
    if joins == 0:
        return None
    branches = [_makers(graph, source, any_op=any_op, joins=joins - 1, behind_norms=behind_norms) for source in read]
    if any(branch is None for branch in branches):
        return None
    return set().union(*(branch for branch in branches if branch))
