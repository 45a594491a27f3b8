"""graph -> Foldable: which norms can be absorbed into a layer beside them, and the sentence for each that cannot."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial

from torch import fx, nn

from bnretrofit.affine import Affine, affine_of
from bnretrofit.capture import Graph, op_of
from bnretrofit.forwarding import Arrival
from bnretrofit.identity import identity_channels
from bnretrofit.layers import kind_of
from bnretrofit.norm_calls import backward_norms, effective_affine, forward_norms, identity_norms, layer_before
from bnretrofit.norms import is_batch_norm
from bnretrofit.obstacles import calls_of, norm_obstacle, obstacle_after, obstacle_before
from bnretrofit.scales import scales_of
from bnretrofit.sites import Fold, FoldPlan, Leave
from bnretrofit.surgery import inserted_norms

__all__ = ["Foldable", "find_folds"]

STOCK_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
OWN_NORM_STAYS = "it is the network's own, and fold takes out what was inserted; fold the result to fold the others too"
PADS = (
    "'{}' after it pads with zeros, where the shift would be missing: it would have to be a layer that pads with more"
)


@dataclass(frozen=True, slots=True)
class Foldable:
    """What can be folded.

    Attributes:
        plan: The decisions.
        before: For each layer that takes norms before it, by name: their map on its input channels.
    """

    plan: FoldPlan
    before: dict[str, Affine]


def find_folds(graph: Graph, model: nn.Module, *, allow_new_layers: bool = False) -> Foldable:
    """Judge every norm of a model.

    Args:
        graph: The model, captured in eval mode.
        model: The model itself: it tells the mode its norms are in.
        allow_new_layers: Permit a convolution that pads with zeros to become one that pads with a value per channel.

    Returns:
        The decisions, and what they come to.
    """
    inserted = inserted_norms(model)
    norms = {name: norm for name, norm in model.named_modules() if is_batch_norm(norm)}
    found: dict[str, Fold | str] = {}
    elsewhere: dict[str, str] = {}
    for name, norm in norms.items():
        reason = OWN_NORM_STAYS if inserted is not None and name not in inserted else norm_obstacle(graph, name, norm)
        found[name] = reason or _backward(graph, name)
        if reason is None and isinstance(found[name], str):
            elsewhere[name] = str(found[name])
    found |= {name: _identity(graph, name) for name in _identities(graph, elsewhere)}
    rest = {name: why for name, why in elsewhere.items() if isinstance(found[name], str)}
    forward, before = _forward(graph, rest, allow_new_layers=allow_new_layers)
    found |= forward
    kinds = {name: type(norm).__name__ for name, norm in norms.items()}
    folds = tuple(decision for decision in found.values() if isinstance(decision, Fold))
    leaves = tuple(Leave(name, kinds[name], why) for name, why in found.items() if isinstance(why, str))
    scales = scales_of({fold.norm: norms[fold.norm] for fold in folds})
    functional = _functional(graph, norms)
    leaves = tuple(leave for leave in leaves if leave.name not in {found.name for found in functional})
    return Foldable(FoldPlan(folds, (*leaves, *functional), scales), before)


def _functional(graph: Graph, norms: Collection[str]) -> list[Leave]:
    """Norms that exist only as a call on some other module's tensors, such as those of an exported program."""
    found = {}
    for node in graph.nodes:
        if op_of(node).startswith("aten.batch_norm.") and graph.owners[node] not in norms:
            use = graph.tensor(node.args[3])
            name = f"{graph.owners[node]}.{node.name}".lstrip(".") if use is None else use.name.rpartition(".")[0]
            reason = f"{graph.place(node)} calls {op_of(node)} itself: there is no BatchNorm module to take out"
            found[name] = Leave(name, "functional", reason)
    return list(found.values())


def _backward(graph: Graph, name: str) -> Fold | str:
    """How a norm folds into the layer before it, or why it does not."""
    sources = [layer_before(graph, node) for node in calls_of(graph, name)]
    problem = next((source for source in sources if isinstance(source, str)), None)
    if problem is not None:
        return problem
    layers = {graph.owners[source] for source in sources if isinstance(source, fx.Node)}
    if len(layers) > 1:
        return f"it follows several layers: {', '.join(sorted(layers))}"
    (layer,) = layers
    affine = effective_affine(graph, calls_of(graph, name)[0])
    return obstacle_before(graph, layer, name) or _fold(graph, name, layer, "backward", affine)


def _identities(graph: Graph, names: dict[str, str]) -> list[str]:
    known = identity_norms(graph)
    return [name for name in names if all(call in known for call in calls_of(graph, name))]


def _identity(graph: Graph, name: str) -> Fold:
    source = identity_norms(graph)[calls_of(graph, name)[0]]
    return _fold(graph, name, graph.owners[source], "none", effective_affine(graph, calls_of(graph, name)[0]))


def _forward(
    graph: Graph, reasons: dict[str, str], *, allow_new_layers: bool
) -> tuple[dict[str, Fold | str], dict[str, Affine]]:
    """How norms that do not fold backward fold into the layer after them, or both reasons why they do not.

    Args:
        graph: The captured model.
        reasons: Why each norm does not fold backward.
        allow_new_layers: See `find_folds`.

    Returns:
        The decisions, and by layer name what the norms before it do to its input.
    """
    following = backward_norms(graph)
    calls = {
        calls[0]: name for name in reasons if len(calls := calls_of(graph, name)) == 1 and calls[0] not in following
    }
    affines = {node: effective_affine(graph, node) for node in graph.nodes if node in calls}
    forward = forward_norms(graph, affines, partial(_unfit, graph, allow_new_layers=allow_new_layers))
    found: dict[str, Fold | str] = {}
    for node, name in calls.items():
        place = forward.places[node]
        if isinstance(place, str):
            found[name] = f"{reasons[name]}; and {place}"
            continue
        fold = _fold(graph, name, graph.owners[place.call], "forward", place.affine)
        found[name] = replace(fold, new_layer=place.padded and bool(place.affine.shift.count_nonzero()))
    return found, {graph.owners[call]: affine for call, affine in forward.before.items()}


def _unfit(graph: Graph, place: Arrival, *, allow_new_layers: bool) -> str | None:
    if place.padded and bool(place.affine.shift.count_nonzero()):
        stock = type(graph.owner(place.call)) in STOCK_CONVS and op_of(place.call).endswith(".default")
        if not allow_new_layers or not stock:
            return PADS.format(graph.owners[place.call])
    return obstacle_after(graph, place.call)


def _fold(graph: Graph, name: str, layer_name: str, direction: str, arriving: Affine) -> Fold:
    norm, layer = graph.model.get_submodule(name), graph.model.get_submodule(layer_name)
    kind, unchanged = kind_of(layer), identity_channels(norm)
    scale = affine_of(norm).scale.abs()
    gains = direction != "none" and layer._parameters.get("bias") is None
    return Fold(
        norm=name,
        layer=layer_name,
        kind=type(layer).__name__ if kind is None else kind.name,
        channels=len(unchanged),
        unchanged=int(unchanged.sum()),
        scale_max=float(scale.max()),
        new_bias=gains and bool(arriving.shift.count_nonzero()),
        direction=direction,
    )
