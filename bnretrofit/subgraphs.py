"""The bodies of operators that run a graph of their own: autocast regions, checkpointed parts, branches."""

from typing import Any

from torch import fx
from torch.utils._pytree import tree_flatten

from bnretrofit.capture import op_of

__all__ = ["all_calls", "body_of", "described"]


def body_of(node: fx.Node) -> fx.Graph | None:
    """The graph that a get_attr node of a captured graph stands for; None if it stands for something else."""
    found = getattr(node.graph.owning_module, str(node.target), None) if node.op == "get_attr" else None
    return found.graph if isinstance(found, fx.GraphModule) else None


def described(body: fx.Graph) -> tuple[Any, ...] | None:
    """A graph as data that is equal for equal graphs: its calls in order, with their constants and what they read.

    Returns:
        A call is an operator's name, how its arguments are arranged, and each of them: an input or an earlier call by
        number, a subgraph, or a constant. None if the graph holds tensors of its own, which data cannot show.
    """
    index: dict[fx.Node, Any] = {}
    calls = []
    for node in body.nodes:
        if node.op == "placeholder":
            index[node] = ("input", len(index))
            continue
        if node.op == "get_attr":
            inner = body_of(node)
            index[node] = None if inner is None else described(inner)
            if index[node] is None:
                return None
            continue
        arguments, layout = tree_flatten((node.args, node.kwargs), is_leaf=lambda leaf: isinstance(leaf, fx.Node))
        read = tuple(index[leaf] if isinstance(leaf, fx.Node) else (type(leaf), leaf) for leaf in arguments)
        calls.append((op_of(node), str(layout), read))
        index[node] = ("call", len(calls))
    return tuple(calls)


def all_calls(node: fx.Node) -> list[fx.Node]:
    """A call, and those in the graphs that it runs."""
    bodies = [body for source in node.all_input_nodes if (body := body_of(source)) is not None]
    return [node, *(found for body in bodies for inner in body.nodes for found in all_calls(inner))]
