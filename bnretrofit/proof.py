"""Two captured graphs -> are they the same function, operator by operator and tensor by tensor?

Given: two graphs. Result: the same list of operators, wired alike, with the same arguments and the same tensors, once
the norms that are the running kernel's exact identity are dropped: then the functions are equal for every finite input.
Where norms are not the identity, they are absorbed in float64 into the layers before them, and the effective weights
compared.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_flatten

from bnretrofit.affine import absorbed_bias, affine_of, channel_factor
from bnretrofit.capture import Graph, op_of
from bnretrofit.identity import identity_channels, kernel_is_exact
from bnretrofit.layers import LAYER_OPS, ChannelsLastBatchNorm1d, kind_of
from bnretrofit.surgery import is_plain_call, norm_after
from bnretrofit.weights import Weight, weight_error

__all__ = ["GraphComparison", "compare_graphs", "prove"]

_SILENT_OPS = (
    "aten.dropout.",
    "aten.dropout_.",
    "aten.feature_dropout.",
    "aten.alpha_dropout.",
    "aten.feature_alpha_dropout.",
)


@dataclass(frozen=True, slots=True)
class GraphComparison:
    """What two graphs have in common.

    Attributes:
        same_operators: The operators, their wiring and their constant arguments agree.
        same_tensors: All tensors they read are equal, too.
        difference: The first thing that differs, as a sentence.
        layer: The module it belongs to, by its name in the second model.
        tensor_error: Largest difference of a tensor's element, relative to the largest element of its tensor.
    """

    same_operators: bool
    same_tensors: bool
    difference: str | None = None
    layer: str | None = None
    tensor_error: float = 0.0


_RANDOM_OPS = re.compile(r"aten\.(rand|bernoulli|multinomial|normal|poisson|exponential|uniform|native_dropout|rrelu)")

ARRANGED_OTHERWISE = "the results are arranged otherwise, or under other names"

_SUBGRAPH = "a subgraph"
"""Stands for the body of a control-flow, checkpointing or autocast operator, which is not compared."""


@dataclass(frozen=True, slots=True)
class _Step:
    op: str
    owner: str
    arguments: list[Any]
    layout: Any


def prove(a: Graph, b: Graph) -> GraphComparison:
    """Compare with identity norms dropped: agreement proves equality for all finite inputs of the captured shapes.

    It holds on this device and dtype. Graphs that draw random numbers, or have subgraphs, are never proved.
    """
    if reason := next((reason for node in (*a.nodes, *b.nodes) if (reason := _unprovable(node))), None):
        return GraphComparison(same_operators=False, same_tensors=False, difference=reason)
    if a.output_spec != b.output_spec:
        return GraphComparison(same_operators=False, same_tensors=False, difference=ARRANGED_OTHERWISE)
    return _compare(
        _steps(a, _identity_norms(a), absorb=False), _steps(b, _identity_norms(b), absorb=False), exact=True
    )


def _unprovable(node: fx.Node) -> str | None:
    if any(source.op == "get_attr" for source in node.all_input_nodes):
        return f"{op_of(node)} runs a subgraph, which is not compared"
    name = op_of(node)
    if name.startswith("aten.scaled_dot_product_attention."):
        drops = (node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)) != 0
    else:
        drops = name.startswith(_SILENT_OPS) and node.args[2] is not False
    return f"{name} draws random numbers" if drops or _RANDOM_OPS.match(name) else None


def compare_graphs(a: Graph, b: Graph) -> GraphComparison:
    """Compare with every norm that has fixed statistics absorbed into the layer before it, in float64."""
    return _compare(_steps(a, _fixed_norms(a), absorb=True), _steps(b, _fixed_norms(b), absorb=True), exact=False)


def _layer_norms(graph: Graph) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Each layer call with the batch_norm in eval mode that alone reads it, along the same channels."""
    for call in graph.nodes:
        if op_of(call) not in LAYER_OPS or (norm := norm_after(call)) is None:
            continue
        owner, kind = graph.owner(norm), kind_of(graph.owner(call))
        if kind is None or not is_plain_call(graph, norm):
            continue
        last = isinstance(owner, ChannelsLastBatchNorm1d)
        if kind.channel_dim(call.meta["val"].dim()) == (-1 if last else 1) and (norm.args[0] is call or last):
            yield call, norm


def _identity_norms(graph: Graph) -> dict[fx.Node, fx.Node]:
    known: dict[str, bool] = {}
    found = {}
    for call, norm in _layer_norms(graph):
        name = graph.owners[norm]
        if name not in known:
            module = graph.owner(norm)
            known[name] = kernel_is_exact(module) and bool(identity_channels(module).all())
        if known[name]:
            found[norm] = call
    return found


def _fixed_norms(graph: Graph) -> dict[fx.Node, fx.Node]:
    return {norm: call for call, norm in _layer_norms(graph)}


def _steps(graph: Graph, dropped: dict[fx.Node, fx.Node], *, absorb: bool) -> list[_Step]:
    """The graph as a list in which each argument is an index of an earlier step, a tensor, an input or a constant."""
    alias: dict[fx.Node, fx.Node] = {}
    index: dict[fx.Node, Any] = {node: ("input", number) for number, node in enumerate(graph.inputs)}
    absorbed = {call: norm for norm, call in dropped.items()} if absorb else {}
    owners_dropped = {graph.owners[norm] for norm in dropped}
    steps: list[_Step] = []
    for node in (*graph.nodes, graph.output):
        if node.op == "call_function":
            if _is_silent(graph, node, dropped, owners_dropped):
                first = node.all_input_nodes[0]
                alias[node] = alias.get(first, first)
                continue
            index[node] = ("step", len(steps))
        arguments, layout = tree_flatten((node.args, node.kwargs), is_leaf=lambda leaf: isinstance(leaf, fx.Node))
        step_arguments = [
            _argument(graph, alias.get(leaf, leaf) if isinstance(leaf, fx.Node) else leaf, index) for leaf in arguments
        ]
        if absorb and op_of(node) in LAYER_OPS:
            step_arguments, layout = _effective_arguments(graph, node, absorbed.get(node), step_arguments, layout)
        steps.append(
            _Step(
                op_of(node) if node.op == "call_function" else "output",
                graph.owners.get(node, ""),
                step_arguments,
                layout,
            )
        )
    return steps


def _is_silent(graph: Graph, node: fx.Node, dropped: dict[fx.Node, fx.Node], owners: set[str]) -> bool:
    """Whether a call hands on its input: a dropped norm, the rearrangements that are its own, dropout in eval mode."""
    if node in dropped:
        return True
    if graph.owners[node] in owners and type(graph.owner(node)) is ChannelsLastBatchNorm1d:
        return _is_own_rearrangement(node, dropped)
    return op_of(node).startswith(_SILENT_OPS) and node.args[2] is False


def _is_own_rearrangement(node: fx.Node, dropped: dict[fx.Node, fx.Node]) -> bool:
    """Whether a call flattens a dropped channels-last norm's input, or gives its output that input's shape again."""
    if not op_of(node).startswith(("aten.flatten.", "aten.view.", "aten.reshape.")):
        return False
    if any(user in dropped for user in node.users):
        return True
    norm = node.args[0]
    call = dropped.get(norm) if isinstance(norm, fx.Node) else None
    return call is not None and call.meta["val"].shape == node.meta["val"].shape


def _argument(graph: Graph, leaf: Any, index: dict[fx.Node, Any]) -> Any:
    if not isinstance(leaf, fx.Node):
        return leaf
    use = graph.tensor(leaf)
    if use is not None:
        return Weight(use.name, use.tensor.detach())
    return index.get(leaf, _SUBGRAPH)


def _effective_arguments(
    graph: Graph, call: fx.Node, norm: fx.Node | None, arguments: list[Any], layout: Any
) -> tuple[list[Any], Any]:
    """A layer call's arguments with its norm absorbed, and with a bias of zeros where it has none."""
    bias_argument = call.args[2] if len(call.args) > 2 else None
    weight, bias = graph.tensor(call.args[1]), graph.tensor(bias_argument)
    layer = graph.owner(call)
    kind = kind_of(layer)
    if weight is None or kind is None or (bias is None and bias_argument is not None):
        return arguments, layout

    suffix = "" if norm is None else f" with '{graph.owners[norm]}' absorbed"
    bias_name = bias.name if bias is not None else f"{graph.owners[call]}.bias"
    plain = weight.tensor.detach()
    full_bias = plain.new_zeros(kind.channels(layer), dtype=torch.float64) if bias is None else bias.tensor.detach()
    factor = None
    if norm is not None:
        module, groups = graph.owner(norm), int(getattr(layer, "groups", 1))
        affine = affine_of(module).where(identity_channels(module))
        factor = channel_factor(plain, affine.scale, transposed=kind.transposed, groups=groups)
        full_bias = absorbed_bias(full_bias, affine)
    weight_leaf, bias_leaf = Weight(weight.name + suffix, plain, factor), Weight(bias_name + suffix, full_bias)
    others = [repr(value) for value in (*call.args[3:], call.kwargs)]
    return [arguments[0], weight_leaf, bias_leaf, *others], "layer"


def _compare(a: list[_Step], b: list[_Step], *, exact: bool) -> GraphComparison:
    pairs: list[tuple[Weight, Weight, str]] = []
    for mine, other in zip(a, b, strict=False):
        problem = _step_difference(mine, other, pairs)
        if problem is not None:
            return GraphComparison(same_operators=False, same_tensors=False, difference=problem, layer=other.owner)
    if len(a) != len(b):
        return GraphComparison(
            same_operators=False, same_tensors=False, difference=f"one graph has {len(a)} operators, the other {len(b)}"
        )
    return _compare_tensors(pairs, exact=exact)


def _step_difference(a: _Step, b: _Step, pairs: list[tuple[Weight, Weight, str]]) -> str | None:
    where = f"'{a.owner}' and '{b.owner}'" if a.owner != b.owner else f"'{b.owner}'"
    if a.op != b.op:
        return f"at {where} one computes {a.op}, the other {b.op}"
    if a.layout != b.layout or len(a.arguments) != len(b.arguments):
        return f"at {where} {a.op} has other arguments"
    for mine, other in zip(a.arguments, b.arguments, strict=True):
        if isinstance(mine, Weight) and isinstance(other, Weight):
            pairs.append((mine, other, b.owner))
        elif type(mine) is not type(other) or mine != other:
            return f"at {where} {a.op} takes {_shown(mine)} in one and {_shown(other)} in the other"
    return None


def _shown(argument: Any) -> str:
    if isinstance(argument, Weight):
        return f"the tensor '{argument.name}'"
    return "another intermediate result" if isinstance(argument, tuple) else repr(argument)


def _compare_tensors(pairs: list[tuple[Weight, Weight, str]], *, exact: bool) -> GraphComparison:
    worst, worst_name, worst_layer = 0.0, "", ""
    for mine, other, owner in pairs:
        error = weight_error(mine, other, exact=exact)
        if not error <= worst:
            worst, worst_name, worst_layer = error, other.name, owner
            if not math.isfinite(error):
                break
    if worst == 0.0:
        return GraphComparison(same_operators=True, same_tensors=True)
    return GraphComparison(
        same_operators=True,
        same_tensors=False,
        difference=_tensor_difference(worst_name, worst),
        layer=worst_layer,
        tensor_error=worst,
    )


def _tensor_difference(name: str, error: float) -> str:
    if error == float("inf"):
        return f"the tensor {name} has another shape, dtype or memory layout"
    return f"the tensor {name} differs by {error:.3g} of its largest element"
