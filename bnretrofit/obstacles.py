"""Why a norm cannot be folded, or a layer cannot take it into its weights, as a sentence."""

import torch
from torch import Tensor, fx, nn

from bnretrofit.affine import affine_of, fixed_norm
from bnretrofit.capture import Graph, op_of
from bnretrofit.hooks import has_hooks
from bnretrofit.layers import LAYER_OPS
from bnretrofit.norms import is_fixed_norm, is_frozen_norm
from bnretrofit.standing import Normed
from bnretrofit.surgery import is_plain_call, norm_after

__all__ = ["calls_of", "norm_obstacle", "obstacle_after", "obstacle_before"]


def norm_obstacle(graph: Graph, name: str, norm: nn.Module) -> str | None:
    """Why a norm has no fixed map, or may not be touched; None if neither."""
    if not is_fixed_norm(norm):
        return f"its class {type(norm).__name__} may do more than normalise"
    if norm.training and not is_frozen_norm(norm):
        return "it is in training mode, where it normalises by each batch's own statistics; call model.eval() first"
    if getattr(norm, "running_mean", None) is None or getattr(norm, "running_var", None) is None:
        return "it keeps no running statistics, so it has no fixed scale"
    if has_hooks(norm) or any(has_hooks(holder) for holder in _holders(graph.model, name)):
        return "it has hooks, which would be lost"
    affine = affine_of(norm)
    fixed = fixed_norm(norm)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (affine.scale, affine.shift, fixed.mean, fixed.var)):
        return "its statistics, scale or shift are not finite"
    calls = calls_of(graph, name)
    if not calls:
        return "the model never runs it in eval mode"
    if not all(is_plain_call(graph, node) for node in calls):
        return "it is not run with its own tensors, its own eps and fixed statistics"
    held = (*norm._parameters.values(), *norm._buffers.values())
    users = {user for tensor in held if tensor is not None for user in graph.uses(tensor)} - set(calls)
    if users:
        return f"its tensors are also used in {graph.place(users.pop())}"
    return None


def calls_of(graph: Graph, name: str) -> list[fx.Node]:
    """The calls of a norm in the graph."""
    return [node for node in graph.nodes if graph.owners[node] == name and op_of(node).startswith("aten.batch_norm.")]


def _holders(model: nn.Module, name: str) -> list[nn.Module]:
    """The Normed that holds a norm, if one does."""
    holder = model.get_submodule(name.rpartition(".")[0])
    return [holder] if isinstance(holder, Normed) else []


def obstacle_before(graph: Graph, layer_name: str, norm_name: str) -> str | None:
    """Why a layer cannot take the norm after it; None if it can."""
    if has_hooks(graph.model.get_submodule(layer_name)):
        return _reparametrised(graph, layer_name) or f"'{layer_name}' has hooks, which would see another output"
    for call in _calls(graph, layer_name):
        after = norm_after(call)
        if after is None or graph.owners[after] != norm_name:
            return f"'{layer_name}' is called more than once, and not always with this norm after it"
    return _obstacle(graph, layer_name)


def obstacle_after(graph: Graph, call: fx.Node) -> str | None:
    """Why a layer cannot take a norm before it; None if it can."""
    name = graph.owners[call]
    if has_hooks(graph.model.get_submodule(name)):
        return _reparametrised(graph, name) or f"'{name}' after it has hooks, which would see another input"
    if len(_calls(graph, name)) > 1:
        return f"'{name}' after it is called more than once"
    return _obstacle(graph, name)


def _calls(graph: Graph, layer_name: str) -> list[fx.Node]:
    return [node for node in graph.nodes if graph.owners[node] == layer_name and op_of(node) in LAYER_OPS]


def _obstacle(graph: Graph, layer_name: str) -> str | None:
    """What is the matter with the layer's own tensors; None if nothing is."""
    layer = graph.model.get_submodule(layer_name)
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    if weight is None:
        return _reparametrised(graph, layer_name)
    for call in _calls(graph, layer_name):
        uses = graph.tensor(call.args[1]), graph.tensor(call.args[2] if len(call.args) > 2 else None)
        read = [None if use is None else use.tensor for use in uses]
        if read[0] is not weight or read[1] is not bias:
            return f"a tensor of '{layer_name}' is changed before it is used (standardised or masked)"
    return next((reason for tensor in (weight, bias) if (reason := _tied(graph, layer, layer_name, tensor))), None)


def _reparametrised(graph: Graph, layer_name: str) -> str | None:
    # Old weight_norm and spectral_norm are hooks, which is no help to whoever reads it.
    if graph.model.get_submodule(layer_name)._parameters.get("weight") is not None:
        return None
    return f"the weight of '{layer_name}' is re-parametrised, so no scale can be absorbed into it"


def _tied(graph: Graph, layer: nn.Module, layer_name: str, tensor: Tensor | None) -> str | None:
    """Who else uses a layer's tensor, as a sentence; None if nobody does."""
    if tensor is None:
        return None
    for use in graph.uses(tensor):
        if graph.owners[use] != layer_name or op_of(use) not in LAYER_OPS:
            return f"a tensor of '{layer_name}' is also used by {graph.place(use)} ({op_of(use)})"
    others = (name for name in graph.holders(tensor) if graph.model.get_submodule(name) is not layer)
    return next((f"a tensor of '{layer_name}' is tied to '{name}'" for name in others), None)
