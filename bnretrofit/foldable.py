"""graph -> FoldPlan: which norms can be absorbed into the layer before them, and the sentence for each that cannot."""

import torch
from torch import Tensor, fx, nn

from bnretrofit.affine import affine_of
from bnretrofit.capture import Graph, op_of
from bnretrofit.identity import identity_channels
from bnretrofit.layers import LAYER_OPS, ChannelsLastBatchNorm1d, Normed, is_batch_norm, is_fixed_norm, kind_of
from bnretrofit.sites import Fold, FoldPlan, Leave
from bnretrofit.surgery import inserted_norms, is_plain_call, norm_after

__all__ = ["find_folds"]

OWN_NORM_STAYS = "it is the network's own, and fold takes out what was inserted; fold the result to fold the others too"


def find_folds(graph: Graph, model: nn.Module) -> FoldPlan:
    """Judge every norm of a model.

    Args:
        graph: The model, captured in eval mode.
        model: The model itself: it tells the mode its norms are in.

    Returns:
        The plan.
    """
    inserted = inserted_norms(model)
    folds, leaves = [], []
    for name, norm in model.named_modules():
        if not is_batch_norm(norm):
            continue
        reason = OWN_NORM_STAYS if inserted is not None and name not in inserted else _obstacle(graph, name, norm)
        if reason is None:
            folds.append(_fold(graph, name, norm))
        else:
            leaves.append(Leave(name, type(norm).__name__, reason))
    return FoldPlan(tuple(folds), tuple(leaves))


def _obstacle(graph: Graph, name: str, norm: nn.Module) -> str | None:
    """Why a norm cannot be folded; None if it can."""
    if not is_fixed_norm(norm):
        return f"its class {type(norm).__name__} may do more than normalise"
    if norm.training:
        return "it is in training mode, where it normalises by each batch's own statistics; call model.eval() first"
    if getattr(norm, "running_mean", None) is None or getattr(norm, "running_var", None) is None:
        return "it keeps no running statistics, so it has no fixed scale"
    if _has_hooks(norm) or any(_has_hooks(holder) for holder in _holders(graph.model, name)):
        return "it has hooks, which would be lost"
    affine = affine_of(norm)
    if not bool(torch.isfinite(affine.scale).all() and torch.isfinite(affine.shift).all()):
        return "its scale or shift is not finite"
    return _call_obstacle(graph, name, norm)


def _call_obstacle(graph: Graph, name: str, norm: nn.Module) -> str | None:
    """Why a norm with a fixed map cannot be folded, judged by how the model calls it."""
    calls = _calls(graph, name)
    if not calls:
        return "the model never runs it in eval mode"
    if not all(is_plain_call(graph, node) for node in calls):
        return "it is not run with its own tensors, its own eps and fixed statistics"
    sources = [_source(graph, norm, node) for node in calls]
    problem = next((source for source in sources if isinstance(source, str)), None)
    if problem is not None:
        return problem
    layers = {graph.owners[source] for source in sources if isinstance(source, fx.Node)}
    if len(layers) > 1:
        return f"it follows several layers: {', '.join(sorted(layers))}"
    return _layer_obstacle(graph, name, next(iter(layers)))


def _calls(graph: Graph, name: str) -> list[fx.Node]:
    return [node for node in graph.nodes if graph.owners[node] == name and op_of(node).startswith("aten.batch_norm.")]


def _source(graph: Graph, norm: nn.Module, node: fx.Node) -> fx.Node | str:
    """The layer call that a norm's call reads, or why there is none."""
    source = node.args[0]
    last = isinstance(norm, ChannelsLastBatchNorm1d)
    if last and isinstance(source, fx.Node) and graph.owners.get(source) == graph.owners[node]:
        source = source.args[0]
    if not isinstance(source, fx.Node) or source.op != "call_function":
        return "nothing computes its input: it is the model's own"
    if op_of(source) not in LAYER_OPS:
        before = graph.owners[source]
        place = f"{type(graph.owner(source)).__name__} '{before}'" if before else "the model's own forward"
        return f"what comes before it is {op_of(source)} in {place}, not a conv or dense layer"
    if norm_after(source) is not node:
        return f"the output of '{graph.owners[source]}' is also read elsewhere, without the norm"
    kind = kind_of(graph.owner(source))
    if kind is None:
        return f"the layer before it is a functional call in '{graph.owners[source]}'"
    if kind.channel_dim(source.meta["val"].dim()) != (-1 if last else 1):
        return f"it normalises dimension 1 of the output of '{graph.owners[source]}', whose channels are last"
    return source


def _layer_obstacle(graph: Graph, name: str, layer_name: str) -> str | None:
    """Why a layer cannot take the norm of that name into its weights; None if it can."""
    layer = graph.model.get_submodule(layer_name)
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    if weight is None:
        return f"the weight of '{layer_name}' is re-parametrised, so no scale can be absorbed into it"
    if _has_hooks(layer):
        return f"'{layer_name}' has hooks, which would see another output"
    for call in (node for node in graph.nodes if graph.owners[node] == layer_name and op_of(node) in LAYER_OPS):
        after = norm_after(call)
        if after is None or graph.owners[after] != name:
            return f"'{layer_name}' is called more than once, and not always with this norm after it"
        uses = graph.tensor(call.args[1]), graph.tensor(call.args[2] if len(call.args) > 2 else None)
        read = [None if use is None else use.tensor for use in uses]
        if read[0] is not weight or read[1] is not bias:
            return f"a tensor of '{layer_name}' is changed before it is used (standardised or masked)"
    return next((reason for tensor in (weight, bias) if (reason := _tied(graph, layer, layer_name, tensor))), None)


def _tied(graph: Graph, layer: nn.Module, layer_name: str, tensor: Tensor | None) -> str | None:
    """Who else uses a layer's tensor, as a sentence; None if nobody does."""
    if tensor is None:
        return None
    for use in graph.uses(tensor):
        if graph.owners[use] != layer_name or op_of(use) not in LAYER_OPS:
            return f"a tensor of '{layer_name}' is also used by '{graph.owners[use]}' ({op_of(use)})"
    for name, other in graph.model.named_modules():
        if other is not layer and any(value is tensor for value in other._parameters.values()):
            return f"a tensor of '{layer_name}' is tied to '{name}'"
    return None


def _holders(model: nn.Module, name: str) -> list[nn.Module]:
    """The Normed that holds a norm, if one does."""
    holder = model.get_submodule(name.rpartition(".")[0])
    return [holder] if isinstance(holder, Normed) else []


def _has_hooks(module: nn.Module) -> bool:
    # torch has no public way to ask.
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)


def _fold(graph: Graph, name: str, norm: nn.Module) -> Fold:
    call = next(
        node for node in graph.nodes if graph.owners[node] == name and op_of(node).startswith("aten.batch_norm.")
    )
    source = _source(graph, norm, call)
    if isinstance(source, str):
        raise TypeError(source)
    layer = graph.owner(source)
    kind = kind_of(layer)
    unchanged = identity_channels(norm)
    affine = affine_of(norm)
    return Fold(
        norm=name,
        layer=graph.owners[source],
        kind=type(layer).__name__ if kind is None else kind.name,
        channels=len(unchanged),
        unchanged=int(unchanged.sum()),
        scale_max=float(affine.scale.abs().max()),
        new_bias=layer._parameters.get("bias") is None and bool(affine.where(unchanged).shift.count_nonzero()),
    )
