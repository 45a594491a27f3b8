"""graph -> the list of its operators with what they read, in a form in which two graphs can be laid side by side.

Norms that are the running kernel's exact identity are left out. On request the other norms are absorbed into the layers
beside them, whose effective tensors then stand in the list.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx
from torch.utils._pytree import tree_flatten

from bnretrofit.affine import Affine
from bnretrofit.capture import Graph, op_of
from bnretrofit.effective import effective_tensors, padded_with, reads_own_tensors, settings
from bnretrofit.forwarding import Arrival
from bnretrofit.layers import LAYER_OPS
from bnretrofit.norm_calls import (
    backward_norms,
    effective_affine,
    forward_norms,
    identity_norms,
    plain_norms,
    sole_source,
)
from bnretrofit.norms import ChannelsLastBatchNorm1d
from bnretrofit.readers import REARRANGED
from bnretrofit.standing import ChannelPad
from bnretrofit.subgraphs import body_of, described
from bnretrofit.weights import Weight

__all__ = ["DROPOUTS", "Step", "absorbed_steps", "plain_steps"]

DROPOUTS = (
    "aten.dropout.",
    "aten.dropout_.",
    "aten.feature_dropout.",
    "aten.alpha_dropout.",
    "aten.feature_alpha_dropout.",
)


@dataclass(frozen=True, slots=True)
class Step:
    """A call of an operator.

    Attributes:
        op: Its name.
        owner: The module that made it.
        arguments: An earlier step or an input by number, a tensor, or a constant, each.
        layout: How the arguments are arranged.
        result: The call that gives its result: its own, or that of the norm after it which was dropped or absorbed.
    """

    op: str
    owner: str
    arguments: list[Any]
    layout: Any
    result: fx.Node


@dataclass(frozen=True, slots=True)
class _Absorbed:
    """Which norms are left out, and what the layers beside them take up.

    Attributes:
        dropped: Calls of norms; what they read stands for their results.
        after: Calls of layers, each with the norm after it.
        before: Calls of layers, each with the map on their input.
        arrived: Those of the dropped that a layer further on takes up: until there, results are without them.
        wanted: Whether layers are listed with their effective tensors at all.
    """

    dropped: set[fx.Node]
    after: dict[fx.Node, fx.Node] = field(default_factory=dict)
    before: dict[fx.Node, Affine] = field(default_factory=dict)
    arrived: frozenset[fx.Node] = frozenset()
    wanted: bool = False


def plain_steps(graph: Graph, left_out: Collection[str] = ()) -> list[Step]:
    """The graph without the norms that are the identity, and without those that are named."""
    named = {norm for norm in plain_norms(graph) if graph.owners[norm] in left_out and sole_source(graph, norm)}
    return _steps(graph, _Absorbed({*identity_norms(graph, same_layout=True), *named}))


def absorbed_steps(graph: Graph) -> list[Step]:
    """The graph without any norm that a layer can take up."""
    gone = identity_norms(graph)
    found = {norm: call for norm, call in backward_norms(graph).items() if norm not in gone}
    backward = {
        norm: call
        for norm, call in found.items()
        if reads_own_tensors(graph, call) and _always_has(graph, call, graph.owners[norm], found)
    }
    rest = {norm: effective_affine(graph, norm) for norm in plain_norms(graph) if norm not in gone | backward}

    def unabsorbable(place: Arrival) -> str | None:
        return None if reads_own_tensors(graph, place.call) else "the layer after it cannot take it up"

    forward = forward_norms(graph, rest, unabsorbable)
    arrived = {norm for norm, place in forward.places.items() if isinstance(place, Arrival)}
    after = {call: norm for norm, call in backward.items()}
    dropped = {*gone, *backward, *arrived}
    return _steps(graph, _Absorbed(dropped, after, forward.before, frozenset(arrived), wanted=True))


def _always_has(graph: Graph, call: fx.Node, norm: str, found: Mapping[fx.Node, fx.Node]) -> bool:
    """Whether every call of a layer has the same norm after it, as only then the layer takes it up."""
    layer = graph.owners[call]
    calls = {node for node in graph.nodes if graph.owners[node] == layer and op_of(node) in LAYER_OPS}
    return calls <= {source for node, source in found.items() if graph.owners[node] == norm}


def _steps(graph: Graph, absorbed: _Absorbed) -> list[Step]:
    alias: dict[fx.Node, fx.Node] = {}
    index: dict[fx.Node, Any] = {node: ("input", number) for number, node in enumerate(graph.inputs)}
    owners_dropped = {graph.owners[norm] for norm in absorbed.dropped}
    steps: list[Step] = []
    for node in (*graph.nodes, graph.output):
        if node.op == "call_function":
            if _is_silent(graph, node, absorbed, owners_dropped):
                first = node.all_input_nodes[0]
                alias[node] = alias.get(first, first)
                kind, number = index.get(alias[node], ("", 0))
                if kind == "step" and node in absorbed.dropped - absorbed.arrived:
                    steps[number] = replace(steps[number], result=node)
                continue
            index[node] = ("step", len(steps))
        arguments, layout = tree_flatten((node.args, node.kwargs), is_leaf=lambda leaf: isinstance(leaf, fx.Node))
        step_arguments = [
            _argument(graph, alias.get(leaf, leaf) if isinstance(leaf, fx.Node) else leaf, index) for leaf in arguments
        ]
        if absorbed.wanted and op_of(node) in LAYER_OPS:
            step_arguments, layout = _layer_arguments(graph, node, absorbed, step_arguments, layout)
        op = op_of(node) if node.op == "call_function" else "output"
        result = absorbed.after.get(node, node)
        steps.append(Step(op, graph.owners.get(node, ""), step_arguments, layout, result))
    return steps


def _is_silent(graph: Graph, node: fx.Node, absorbed: _Absorbed, owners: set[str]) -> bool:
    """Whether a call hands on its input: a dropped norm, the rearrangements that are its own, dropout in eval mode.

    So does our own padding, where layers are listed with what they are padded with.
    """
    if node in absorbed.dropped or (absorbed.wanted and type(graph.owner(node)) is ChannelPad):
        return True
    if graph.owners[node] in owners and type(graph.owner(node)) is ChannelsLastBatchNorm1d:
        return _is_own_rearrangement(node, absorbed.dropped)
    return op_of(node).startswith(DROPOUTS) and node.args[2] is False


def _is_own_rearrangement(node: fx.Node, dropped: set[fx.Node]) -> bool:
    """Whether a call flattens a dropped channels-last norm's input, or gives its output that input's shape again."""
    if not op_of(node).startswith(REARRANGED):
        return False
    if any(user in dropped for user in node.users):
        return True
    norm = node.args[0]
    if not isinstance(norm, fx.Node) or norm not in dropped:
        return False
    flattened = norm.args[0]
    source = flattened.args[0] if isinstance(flattened, fx.Node) else None
    return isinstance(source, fx.Node) and source.meta["val"].shape == node.meta["val"].shape


def _argument(graph: Graph, leaf: Any, index: dict[fx.Node, Any]) -> Any:
    if not isinstance(leaf, fx.Node):
        return leaf
    use = graph.tensor(leaf)
    if use is not None:
        return Weight(use.name, use.tensor.detach())
    body = body_of(leaf)
    return index[leaf] if body is None else described(body)


def _layer_arguments(
    graph: Graph, call: fx.Node, absorbed: _Absorbed, arguments: list[Any], layout: Any
) -> tuple[list[Any], Any]:
    """A layer call's arguments with the norms beside it absorbed, where its tensors are its own."""
    if not reads_own_tensors(graph, call):
        return [*arguments, *padded_with(graph, call, None)], layout
    norm, before = absorbed.after.get(call), absorbed.before.get(call)
    tensors = effective_tensors(graph, call, norm, before)
    return [arguments[0], *tensors, *padded_with(graph, call, before), *settings(graph, call)], "layer"
