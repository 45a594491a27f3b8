"""Who reads a result: the calls that see its values, not those that only ask for its shape.

Given: timm's `LinearNorm`, `bn(x.flatten(0, 1)).reshape_as(x)`. Result: the flatten alone reads x.
"""

import re

from torch import fx

from bnretrofit.capture import op_of

__all__ = ["REARRANGED", "readers"]

REARRANGED = ("aten.flatten.using_ints", "aten.view.default", "aten.reshape.default")
"""Begin the names of operators that give elements another shape and leave their order."""

# The first argument gives the values, a later one the shape.
_SHAPED_LIKE = re.compile(r"aten\.(reshape_as|view_as|expand_as|type_as)\.")
_SHAPE_ALONE = re.compile(r"aten\.(sym_(size|numel|stride)|((zeros|ones|empty|full|rand|randn)_like|new_\w+))\b")


def readers(node: fx.Node) -> list[fx.Node]:
    """The calls that read a result's values; the graph's output is one of them."""
    return [user for user in node.users if not _asks_for_the_shape(user, node)]


def _asks_for_the_shape(user: fx.Node, node: fx.Node) -> bool:
    if _SHAPED_LIKE.match(op_of(user)):
        return user.args[0] is not node
    return _SHAPE_ALONE.match(op_of(user)) is not None
