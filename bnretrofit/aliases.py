"""Which tensors of a graph may share memory: what is taken out between them must not let a change in place through.

A norm's result is memory of its own. Once the norm is gone, its readers read what it read: if that is changed in place
under another name, in the same memory, they see the change.
"""

import re
from typing import Any

from torch import fx

from bnretrofit.capture import Graph, op_of
from bnretrofit.readers import readers
from bnretrofit.subgraphs import body_of

__all__ = ["is_private", "is_undisturbed"]

# These may return the very tensor they are given, though their schema does not say so.
_UNSAID = re.compile(r"aten\.((feature_|alpha_|feature_alpha_)?dropout|atleast_[123]d)\.")


def is_private(node: fx.Node) -> bool:
    """Whether a call's result is memory that nothing else in the graph reads or keeps under another name.

    True of a fresh result, and of views and changes in place of one, each read by the next alone.
    """
    while (base := _base(node)) is not None:
        if base.op != "call_function" or len(readers(base)) != 1:
            return False
        node = base
    return node.op == "call_function"


def is_undisturbed(graph: Graph, *nodes: fx.Node) -> bool:
    """Whether nothing changes the memory of any of these results in place, once the last of them is there."""
    roots = {_root(node) for node in nodes}
    later = graph.nodes[max(graph.nodes.index(node) for node in nodes if node in graph.nodes) + 1 :]
    return not any(_root(changed) in roots for call in later for changed in _changed(call))


def _root(node: fx.Node) -> fx.Node:
    while (base := _base(node)) is not None:
        node = base
    return node


def _base(node: fx.Node) -> fx.Node | None:
    """The argument whose memory a call's result may share; None for memory of its own."""
    if node.op != "call_function" or not node.all_input_nodes:
        return None
    first = node.all_input_nodes[0]
    schema: Any = getattr(node.target, "_schema", None)
    if schema is None:
        # Python's getitem, of the several results of an operator.
        return first
    if any(result.alias_info is not None for result in schema.returns) or _UNSAID.match(op_of(node)):
        return first
    return None


def _changed(node: fx.Node) -> list[fx.Node]:
    """The arguments that a call writes to."""
    schema: Any = getattr(node.target, "_schema", None)
    if node.op != "call_function":
        return []
    if schema is None:
        # A graph of its own may write to whatever it is given; Python's getitem does not.
        return [source for source in node.all_input_nodes if any(map(body_of, node.all_input_nodes))]
    given = [*node.args, *node.kwargs.values()]
    written = [argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments]
    return [value for value, writes in zip(given, written, strict=False) if writes and isinstance(value, fx.Node)]
