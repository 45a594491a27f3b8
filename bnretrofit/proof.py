"""Two captured graphs -> are they the same function, operator by operator and tensor by tensor?

Given: two graphs. Result: the same list of operators, wired alike, with the same arguments and the same tensors, once
the norms that are the running kernel's exact identity are dropped: then the functions are equal for every finite input.
Where norms are not the identity, they are absorbed in float64 into the layers beside them, and the effective weights
compared.
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from bnretrofit.canonical import DROPOUTS, Step, absorbed_steps, plain_steps
from bnretrofit.capture import Graph, op_of
from bnretrofit.subgraphs import all_calls, body_of, described
from bnretrofit.weights import Weight, weight_error

__all__ = ["GraphComparison", "TensorError", "compare_graphs", "compare_without", "prove", "tensor_pairs", "unprovable"]


@dataclass(frozen=True, slots=True)
class TensorError:
    """A tensor that differs.

    Attributes:
        name: Its name in the second model.
        layer: The module that reads it.
        error: See `weights.weight_error`.
    """

    name: str
    layer: str
    error: float

    def __str__(self) -> str:
        if self.error == math.inf:
            return f"the tensor {self.name} has another shape, dtype or memory layout"
        return f"the tensor {self.name} differs by {self.error:.3g}, relative to its elements"


@dataclass(frozen=True, slots=True)
class GraphComparison:
    """What two graphs have in common.

    Attributes:
        same_operators: The operators, their wiring and their constant arguments agree.
        same_tensors: All tensors they read are equal, too.
        difference: The first thing that differs, as a sentence.
        layer: The module it belongs to, by its name in the second model.
        tensor_error: Largest difference of a tensor's element, as `weights.weight_error` measures it.
        errors: All tensors that differ, in the order in which they are read.
    """

    same_operators: bool
    same_tensors: bool
    difference: str | None = None
    layer: str | None = None
    tensor_error: float = 0.0
    errors: tuple[TensorError, ...] = ()

    def told(self, tolerance: float) -> "GraphComparison":
        """With the first tensor that differs by more than this as the difference, instead of the largest."""
        first = next((error for error in self.errors if not error.error <= tolerance), None)
        return self if first is None else replace(self, difference=str(first), layer=first.layer)


_RANDOM_OPS = re.compile(r"aten\.(rand|bernoulli|multinomial|normal|poisson|exponential|uniform|native_dropout|rrelu)")

_RECURRENT = ("aten.lstm.", "aten.gru.", "aten.rnn_tanh.", "aten.rnn_relu.")

ARRANGED_OTHERWISE = "the results are arranged otherwise, or under other names"


def prove(a: Graph, b: Graph) -> GraphComparison:
    """Compare with identity norms dropped: agreement proves equality for all finite inputs of the captured shapes.

    It holds on this device and dtype. Graphs that draw random numbers are never proved.
    """
    if reason := unprovable(a, b):
        return GraphComparison(same_operators=False, same_tensors=False, difference=reason)
    if a.output_spec != b.output_spec:
        return GraphComparison(same_operators=False, same_tensors=False, difference=ARRANGED_OTHERWISE)
    return _compare(plain_steps(a), plain_steps(b), exact=True)


def unprovable(a: Graph, b: Graph) -> str | None:
    """Why nothing can be proved of two graphs, however alike they are, as a sentence; None if something can."""
    return next((reason for node in (*a.nodes, *b.nodes) if (reason := _obstacle(node))), None)


def _obstacle(node: fx.Node) -> str | None:
    for source in node.all_input_nodes:
        body = body_of(source)
        if source.op == "get_attr" and (body is None or described(body) is None):
            return f"{op_of(node)} runs a subgraph with tensors of its own, which are not compared"
    return next((reason for call in all_calls(node) if (reason := _draws(call))), None)


def _draws(node: fx.Node) -> str | None:
    name = op_of(node)
    if name.startswith("aten.scaled_dot_product_attention."):
        draws = (node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)) != 0
    elif name.startswith(DROPOUTS):
        draws = node.args[2] is not False
    elif name.startswith(_RECURRENT):
        # Tagged as random for the dropout between their layers, which draws only in training and at a rate above zero.
        draws = _argument(node, "train") is not False and _argument(node, "dropout") != 0
    else:
        seeded = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        draws = seeded or _RANDOM_OPS.match(name) is not None
    return f"{name} draws random numbers" if draws else None


def _argument(node: fx.Node, name: str) -> Any:
    """What an operator's call gives for one of its schema's arguments; None if it is not given."""
    schema: Any = getattr(node.target, "_schema", None)
    given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    return (given | node.kwargs).get(name)


def tensor_pairs(a: Graph, b: Graph) -> list[tuple[Weight, Weight, str]] | None:
    """The tensors that two graphs read at the same places, with identity norms dropped, and who reads them.

    None where the graphs are not the same operators.
    """
    pairs: list[tuple[Weight, Weight, str]] = []
    steps = plain_steps(a), plain_steps(b)
    same = len(steps[0]) == len(steps[1]) and a.output_spec == b.output_spec
    alike = same and all(_step_difference(mine, other, pairs) is None for mine, other in zip(*steps, strict=True))
    return pairs if alike else None


def compare_without(a: Graph, b: Graph, norms: Collection[str]) -> GraphComparison:
    """Compare with some of the second graph's norms left out, whatever they compute: is it the first one besides?"""
    return _compare(plain_steps(a), plain_steps(b, norms), exact=False)


def compare_graphs(a: Graph, b: Graph) -> GraphComparison:
    """Compare with every norm absorbed that can be, into the layer before it or after it, in float64."""
    return _compare(absorbed_steps(a), absorbed_steps(b), exact=False)


def _compare(a: list[Step], b: list[Step], *, exact: bool) -> GraphComparison:
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


def _step_difference(a: Step, b: Step, pairs: list[tuple[Weight, Weight, str]]) -> str | None:
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
    found = ((other.name, owner, weight_error(mine, other, exact=exact)) for mine, other, owner in pairs)
    errors = tuple(TensorError(name, owner, error) for name, owner, error in found if error != 0)
    if not errors:
        return GraphComparison(same_operators=True, same_tensors=True)
    # No order is said of NaN: one stands for the whole.
    worst = next((error for error in errors if math.isnan(error.error)), max(errors, key=lambda error: error.error))
    return GraphComparison(
        same_operators=True,
        same_tensors=False,
        difference=str(worst),
        layer=worst.layer,
        tensor_error=worst.error,
        errors=errors,
    )
