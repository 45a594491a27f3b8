"""Which tensors of a graph may share memory: what is taken out between them must not let a change in place through.

A norm's result is memory of its own. Once the norm is gone, its readers read what it read: if that is changed in place
under another name, in the same memory, they see the change.
"""

import re
from typing import Any

from torch import fx
from torch.utils._pytree import tree_leaves

from bnretrofit.capture import Graph, op_of
from bnretrofit.readers import readers
from bnretrofit.subgraphs import body_of

__all__ = ["is_private", "is_undisturbed"]

# These may return memory they are given, though their schemas do not say so.
_UNSAID = re.compile(
    r"aten\.((feature_|alpha_|feature_alpha_)?dropout|atleast_[123]d|einsum|meshgrid|broadcast_tensors|cartesian_prod|"
    r"unsafe_(chunk|split|split_with_sizes))\."
)


def is_private(node: fx.Node) -> bool:
    """Whether a call's result is memory that nothing else in the graph reads or keeps under another name.

    True of a fresh result, and of views and changes in place of one, each read by the next alone.
    """
    while bases := _bases(node):
        (base, *more) = bases
        if more or base.op != "call_function" or len(readers(base)) != 1:
            return False
        node = base
    return node.op == "call_function"


def is_undisturbed(graph: Graph, *nodes: fx.Node) -> bool:
    """Whether nothing changes the memory of any of these results in place, once the last of them is there."""
    roots = set().union(*map(_roots, nodes))
    later = graph.nodes[max(graph.nodes.index(node) for node in nodes if node in graph.nodes) + 1 :]
    return not any(_roots(changed) & roots for call in later for changed in _changed(call))


def _roots(node: fx.Node) -> set[fx.Node]:
    bases = _bases(node)
    return set().union(*map(_roots, bases)) if bases else {node}


def _bases(node: fx.Node) -> list[fx.Node]:
    """The arguments whose memory a call's result may share; none for memory of its own."""
    if node.op != "call_function" or not node.all_input_nodes:
        return []
    schema: Any = getattr(node.target, "_schema", None)
    if schema is None:
        # Python's getitem, of the several results of an operator; or a graph of its own, which may return what it gets.
        return [source for source in node.all_input_nodes if source.op != "get_attr"]
    if _UNSAID.match(op_of(node)):
        return node.all_input_nodes
    return node.all_input_nodes[:1] if any(result.alias_info is not None for result in schema.returns) else []


def _changed(node: fx.Node) -> list[fx.Node]:
    """The arguments that a call writes to."""
    schema: Any = getattr(node.target, "_schema", None)
    if node.op != "call_function":
        return []
    if schema is None:
        # A graph of its own may write to whatever it is given; Python's getitem does not.
        return [source for source in node.all_input_nodes if any(map(body_of, node.all_input_nodes))]
    written = [argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments]
    named = {argument.name for argument, writes in zip(schema.arguments, written, strict=True) if writes}
    given = [value for value, writes in zip(node.args, written, strict=False) if writes]
    given += [value for name, value in node.kwargs.items() if name in named]
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, fx.Node)]
