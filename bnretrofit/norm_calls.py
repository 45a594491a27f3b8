"""The BatchNorms of a captured graph: which are the identity, which follow a layer, and which are read by one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from bnretrofit.affine import Affine, affine_of, padding_value
from bnretrofit.aliases import is_private, is_undisturbed
from bnretrofit.capture import Graph, op_of
from bnretrofit.forwarding import Arrival, arrival
from bnretrofit.identity import identity_channels, kernel_is_exact
from bnretrofit.layers import LAYER_OPS, kind_of
from bnretrofit.norms import ChannelsLastBatchNorm1d
from bnretrofit.readers import REARRANGED
from bnretrofit.surgery import is_plain_call, norm_after

__all__ = [
    "Forward",
    "backward_norms",
    "effective_affine",
    "forward_norms",
    "identity_norms",
    "layer_before",
    "plain_norms",
    "sole_source",
]


def plain_norms(graph: Graph) -> list[fx.Node]:
    """The calls of norms that run with their own tensors and fixed statistics."""
    return [node for node in graph.nodes if op_of(node).startswith("aten.batch_norm.") and is_plain_call(graph, node)]


def sole_source(graph: Graph, norm: fx.Node) -> fx.Node | None:
    """The call whose result a norm reads; None if something else reads it too, or if it is the model's input."""
    source = norm.args[0]
    if isinstance(graph.owner(norm), ChannelsLastBatchNorm1d) and isinstance(source, fx.Node):
        # The rearrangement is the norm's own.
        source = source.args[0] if graph.owners.get(source) == graph.owners[norm] and source.args else source
    if not isinstance(source, fx.Node) or source.op != "call_function":
        return None
    return source if norm_after(source) is norm else None


def identity_norms(graph: Graph, *, same_layout: bool = False) -> dict[fx.Node, fx.Node]:
    """Norms that are the running kernel's exact identity, each with the call that it alone reads.

    Args:
        graph: The captured model.
        same_layout: Only those whose result lies in memory as their input does: in another layout, the next kernel may
            round in another order.
    """
    known: dict[str, bool] = {}
    found = {}
    for norm in plain_norms(graph):
        source, name = sole_source(graph, norm), graph.owners[norm]
        if source is None or not is_private(source) or (same_layout and not _keeps_layout(norm)):
            continue
        if name not in known:
            module = graph.owner(norm)
            known[name] = kernel_is_exact(module) and bool(identity_channels(module).all())
        if known[name]:
            found[norm] = source
    return found


def _keeps_layout(norm: fx.Node) -> bool:
    source = norm.args[0]
    return isinstance(source, fx.Node) and source.meta["val"].stride() == norm.meta["val"].stride()


def backward_norms(graph: Graph) -> dict[fx.Node, fx.Node]:
    """Norms that alone read a layer's output, along its channels, each with the layer's call."""
    found = {norm: layer_before(graph, norm) for norm in plain_norms(graph)}
    return {norm: call for norm, call in found.items() if isinstance(call, fx.Node)}


def layer_before(graph: Graph, norm: fx.Node) -> fx.Node | str:
    """The call of the layer whose output a norm alone reads, along its channels; or why there is none, as a sentence.

    Given: a Linear's (N, L, C), flattened to (N * L, C) for a BatchNorm1d. Result: the Linear's call.
    """
    read = norm.args[0]
    if not isinstance(read, fx.Node) or read.op != "call_function":
        return "nothing computes its input: it is the model's own"
    before = read.args[0] if op_of(read).startswith(REARRANGED) else read
    source = before if isinstance(before, fx.Node) and op_of(before) in LAYER_OPS else read
    if op_of(source) not in LAYER_OPS:
        return f"what comes before it is {op_of(source)} in {graph.place(source)}, not a conv or dense layer"
    if norm_after(source) is not norm:
        return f"the output of '{graph.owners[source]}' is also read elsewhere, without the norm"
    kind = kind_of(graph.owner(source))
    if kind is None:
        return f"the layer before it is a functional call in {graph.place(source)}"
    if not _along_channels(read, source, kind.channel_dim(source.meta["val"].dim())):
        return f"it does not normalise the output of '{graph.owners[source]}' along its channels"
    return source


def _along_channels(read: fx.Node, source: fx.Node, channel_dim: int | None) -> bool:
    """Whether dimension 1 of what a norm reads is the channels of a layer's result, whatever the size of the input.

    Shapes alone would not tell: with one pixel, or one sample, many rearrangements look alike.
    """
    if read is source:
        return channel_dim == 1
    shape, normed = source.meta["val"].shape, read.meta["val"].shape
    if channel_dim == -1:
        # All in rows as long as there are channels, and the channels come last.
        return len(normed) == 2 and normed[1] == shape[-1]
    start: Any = read.args[1] if len(read.args) > 1 else 0
    return channel_dim == 1 and op_of(read).startswith("aten.flatten.") and start % len(shape) >= 2


@dataclass(frozen=True, slots=True)
class Forward:
    """Norms followed to the layers after them.

    Attributes:
        places: For each norm where it arrives, or why it stays, as a sentence.
        before: For each layer's call that norms arrive at, what they do to its input together.
    """

    places: dict[fx.Node, Arrival | str]
    before: dict[fx.Node, Affine]


def forward_norms(graph: Graph, norms: Mapping[fx.Node, Affine], obstacle: Callable[[Arrival], str | None]) -> Forward:
    """Follow norms to the layers after them.

    Args:
        graph: The captured model.
        norms: Calls of norms, in the order in which they run, with their maps.
        obstacle: Why a layer cannot take what arrives, as a sentence; None if it can.
    """
    found: dict[fx.Node, Arrival | str] = {}
    folded = set(identity_norms(graph))
    # From the last: a norm passes through later ones if those are folded.
    for norm in reversed(list(norms)):
        place = _arrival(graph, norm, norms[norm], folded)
        reason = place if isinstance(place, str) else obstacle(place)
        if reason is None:
            folded.add(norm)
        found[norm] = place if reason is None else reason
    before: dict[fx.Node, Affine] = {}
    for norm in norms:
        place = found[norm]
        if isinstance(place, Arrival):
            before[place.call] = before[place.call].then(place.affine) if place.call in before else place.affine
    for norm, place in found.items():
        if isinstance(place, Arrival) and place.padded and not _can_be_padded(graph, place.call, before[place.call]):
            found[norm] = (
                f"'{graph.owners[place.call]}' after it pads with zeros, and no other padding can stand for the shift"
            )
    arrived = {place.call for place in found.values() if isinstance(place, Arrival)}
    return Forward(found, {call: affine for call, affine in before.items() if call in arrived})


def _arrival(graph: Graph, norm: fx.Node, affine: Affine, folded: set[fx.Node]) -> Arrival | str:
    source = norm.args[0]
    # Without the norm, the layer reads what it read: now, or after a change in place.
    alone = sole_source(graph, norm)
    private = alone is not None and is_private(alone)
    if not private and not (isinstance(source, fx.Node) and is_undisturbed(graph, source, norm)):
        return "what it reads is changed in place"
    return arrival(graph, norm, affine, folded=folded)


def _can_be_padded(graph: Graph, call: fx.Node, affine: Affine) -> bool:
    """Whether a layer can be padded with what the norms before it would make zero: a finite number of its own dtype."""
    weight = graph.tensor(call.args[1])
    dtype = torch.float32 if weight is None else weight.tensor.dtype
    return bool(torch.isfinite(padding_value(affine).to(dtype)).all())


def effective_affine(graph: Graph, norm: fx.Node) -> Affine:
    """A norm's map, with the exact identity on the channels that the running kernel leaves alone."""
    module = graph.owner(norm)
    return affine_of(module).where(identity_channels(module))
