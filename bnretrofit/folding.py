"""model -> the model without norms, computing the same function.

Given: layer -> BatchNorm with fixed statistics, or BatchNorm -> layer. Result: the layer with the norm in its weights.
A norm that `insert` put in is unwrapped; a network's own becomes nn.Identity, so positions and all other keys stay.
"""

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bnretrofit.absorbing import absorb
from bnretrofit.affine import Affine, affine_of, padding_value
from bnretrofit.batches import Batch, as_call, device_of, dtype_of, map_tensors
from bnretrofit.capture import Graph, TensorUse, capture, op_of
from bnretrofit.comparison import tolerance_for
from bnretrofit.copies import independent_copy, replace_modules, share_copy
from bnretrofit.errors import InputRejectedError, VerificationError
from bnretrofit.foldable import Foldable, find_folds
from bnretrofit.identity import identity_channels
from bnretrofit.layers import kind_of
from bnretrofit.norms import without_norm
from bnretrofit.proof import compare_graphs
from bnretrofit.sites import FoldPlan
from bnretrofit.standing import Normed, Padded
from bnretrofit.surgery import PLAN_ATTRIBUTE
from bnretrofit.twins import align, carry, with_tensors_of

__all__ = ["SCALE_LIMIT", "FoldedModel", "fold", "fold_captured", "make_fold_plan"]

logger = logging.getLogger(__name__)

SCALE_LIMIT = 1000.0
"""Largest |weight| / sqrt(running_var + eps) that folds without force. With the usual eps of 1e-5 a channel reaches it
only with a variance near zero and |weight| above 3: a running_var that lags behind the weights (scales of 2098 came
with an accuracy of zero), not a trained network. An inserted norm starts at 1."""


def make_fold_plan(model: nn.Module, example: Batch) -> FoldPlan:
    """Decide which norms fold into a layer beside them, and which stay and why. Leaves the model as it is.

    In a model that `insert` or `retrofit` made, the inserted norms are folded and the network's own stay; in any other
    model, its own are folded.

    Args:
        model: The network.
        example: One batch as the model takes it; only shapes and dtypes matter.

    Returns:
        Every norm of the model, in `folds` or in `leaves`.

    Raises:
        InputRejectedError: The model cannot be captured.
    """
    return find_folds(capture(model, example), model).plan


def fold(
    model: nn.Module,
    example: Batch,
    *,
    like: nn.Module | None = None,
    force: bool = False,
    allow_new_layers: bool = False,
) -> nn.Module:
    """Absorb every norm that can be absorbed into the weights before or after it, in float64, rounded once.

    Channels on which the running kernel treats the norm as the identity keep their bits, so that folding what was just
    inserted gives back the original tensors.

    Args:
        model: The network; it is left as it is, and shares no tensor with the result.
        example: One batch as the model takes it.
        like: A model of another architecture and the same function, without these norms: the result is of its class.
        force: Fold scales beyond `SCALE_LIMIT` too.
        allow_new_layers: Permit layers that the architecture does not have: a norm before a convolution that pads with
            zeros then folds into one that pads with a value per channel.

    Returns:
        The folded model, in the mode of `model`. What stays is logged as a warning; `make_fold_plan` gives it as data.

    Raises:
        InputRejectedError: A scale is beyond the limit, or the twin does not fit.
        VerificationError: The result is not the same function (nothing that is known leads to this).
    """
    folded = fold_captured(model, example, like=like, force=force, allow_new_layers=allow_new_layers)
    for leave in folded.plan.leaves:
        logger.warning("fold leaves '%s' (%s): %s", leave.name, leave.kind, leave.reason)
    same = compare_graphs(folded.before, folded.after)
    if not same.same_operators or not same.tensor_error <= tolerance_for(dtype_of(model)).tensor:
        raise VerificationError("the folded model is not the same function", where=same.layer, why=same.difference)
    if any(found.direction == "forward" for found in folded.plan.folds):
        # Fold and comparison follow a norm by the same rules: outputs are the judge of those.
        _require_close(model, folded.model, example)
    return independent_copy(folded.model)


# Samples more; and what is added to each size beyond samples and channels, and how often it is taken before.
OTHER_SIZES = ((0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 0, 2))


def _require_close(model: nn.Module, folded: nn.Module, example: Batch) -> None:
    """Run both on random inputs, also of other sizes where the model takes them: at one size, much looks alike."""
    generator = torch.Generator().manual_seed(0)
    device, tolerance = device_of(model), tolerance_for(dtype_of(model))
    networks = [share_copy(network, buffers=False).eval() for network in (model, folded)]

    def drawn(tensor: Tensor, samples: int, more: int, times: int) -> Tensor:
        if not tensor.dtype.is_floating_point:
            return tensor
        sizes = [times * size + more if dim > 1 and tensor.dim() > 2 else size for dim, size in enumerate(tensor.shape)]
        sizes[:1] = [size + samples for size in sizes[:1]]
        return torch.randn(sizes, generator=generator).to(device, tensor.dtype)

    for number, (samples, more, times) in enumerate(OTHER_SIZES):
        args, kwargs = as_call(map_tensors(partial(drawn, samples=samples, more=more, times=times), example))
        try:
            wanted = _outputs(networks[0], args, kwargs)
        except (RuntimeError, ValueError, AssertionError):
            if number:
                continue
            raise
        # Outside: what the model takes, the folded one has to take.
        for mine, other in zip(wanted, _outputs(networks[1], args, kwargs), strict=True):
            error = float((mine - other).abs().max())
            if not error <= tolerance.rtol * float(mine.abs().max()) + tolerance.atol:
                why = f"outputs differ by {error:.3g} on random inputs of {'another' if number else 'the same'} size"
                raise VerificationError("the folded model is not the same function", why=why)


def _outputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    args, kwargs = map_tensors(torch.clone, (args, kwargs))
    with torch.inference_mode():
        found = model(*args, **kwargs)
    leaves = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor) and leaf.numel()]
    return [leaf for leaf in leaves if leaf.dtype.is_floating_point]


@dataclass(frozen=True, slots=True)
class FoldedModel:
    """A folded model with what was captured on the way.

    Attributes:
        model: It shares with the original the tensors that did not change.
        plan: What was folded and what was left.
        before: The original's graph.
        after: The folded model's graph.
    """

    model: nn.Module
    plan: FoldPlan
    before: Graph
    after: Graph


def fold_captured(
    model: nn.Module, example: Batch, *, like: nn.Module | None, force: bool, allow_new_layers: bool = False
) -> FoldedModel:
    """`fold`, unchecked, for callers that verify the result themselves and need not capture it again."""
    before = capture(model, example)
    foldable = find_folds(before, model, allow_new_layers=allow_new_layers)
    plan = foldable.plan
    if not force:
        _refuse_explosions(plan)
    copy = _folded(share_copy(model), foldable)
    for part in copy.modules():
        # A part may have been retrofitted in its place.
        if hasattr(part, PLAN_ATTRIBUTE):
            delattr(part, PLAN_ATTRIBUTE)
    if like is None:
        return FoldedModel(copy, plan, before, capture(copy, example))
    twin = capture(like, example)
    # A new bias shows in a capture alone; otherwise the graph is known, and a capture takes longer than the fold.
    gained = any(found.new_bias for found in plan.folds)
    alignment = align(capture(copy, example) if gained else _without_norms(before, plan, copy), twin)
    if alignment.norms:
        layer, (_, norm) = next(iter(alignment.norms.items()))
        raise InputRejectedError(f"the twin has a norm '{norm}' where the folded model has none", where=layer)
    state = copy.state_dict(keep_vars=True)
    carried = {name: state[source] for name, source in alignment.tensors.items()}
    result = carry(like, carried, training=model.training)
    return FoldedModel(result, plan, before, with_tensors_of(twin, result))


def _without_norms(graph: Graph, plan: FoldPlan, folded: nn.Module) -> Graph:
    """The graph less the calls of the norms that were folded, with the folded model's names and tensors."""
    gone = {found.norm for found in plan.folds}
    nodes = tuple(
        node for node in graph.nodes if not (graph.owners[node] in gone and op_of(node).startswith("aten.batch_norm."))
    )
    # A layer that was unwrapped moved up by one name.
    state = folded.state_dict(keep_vars=True)
    holders = [found.layer.removesuffix("layer") for found in plan.folds if f"{found.layer}.weight" not in state]

    def moved(use: TensorUse) -> TensorUse:
        holder, _, leaf = use.name.rpartition("layer.")
        name = holder + leaf if holder in holders else use.name
        return TensorUse(name, state.get(name, use.tensor))

    return replace(graph, model=folded, nodes=nodes, tensors={node: moved(use) for node, use in graph.tensors.items()})


def _refuse_explosions(plan: FoldPlan) -> None:
    worst = max(plan.folds, key=lambda found: found.scale_max, default=None)
    if worst is not None and worst.scale_max > SCALE_LIMIT:
        raise InputRejectedError(
            f"the norm scales a channel by {worst.scale_max:.0f}, beyond the limit of {SCALE_LIMIT:.0f}",
            where=worst.norm,
            why="its running variance is far below what its weight was trained for",
            remedy="measure the statistics again (fold --recalibrate DATA), or pass --force (force=True)",
        )


def _folded(model: nn.Module, foldable: Foldable) -> nn.Module:
    """Give the layers their new weights, then take the norms out. Edits the model."""
    after: dict[str, Affine] = {}
    for found in foldable.plan.folds:
        if found.direction == "backward" and found.unchanged < found.channels:
            norm = model.get_submodule(found.norm)
            after[found.layer] = affine_of(norm).where(identity_channels(norm))
    layers = {name: model.get_submodule(name) for name in (*after, *foldable.before)}
    norms = {model.get_submodule(found.norm) for found in foldable.plan.folds}
    for name, layer in layers.items():
        _absorb(layer, after.get(name), foldable.before.get(name))
    gaining = {found.layer for found in foldable.plan.folds if found.new_layer}
    model = replace_modules(model, {layers[name]: _padded(layers[name], foldable.before[name]) for name in gaining})
    # Afterwards: what stands beside a norm may have gained a padding.
    holders = [module for module in model.modules() if isinstance(module, Normed) and module.norm in norms]
    bare = {norm: without_norm(norm) for norm in norms}
    return replace_modules(model, bare | {holder: _bare(holder, norms) for holder in holders})


def _absorb(layer: nn.Module, after: Affine | None, before: Affine | None) -> None:
    kind = kind_of(layer)
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    if kind is None or weight is None:
        raise TypeError(f"a {type(layer).__name__} cannot absorb a norm")
    groups = int(getattr(layer, "groups", 1))
    new_weight, new_bias = absorb(weight, bias, after, before, transposed=kind.transposed, groups=groups)
    layer._parameters["weight"] = nn.Parameter(new_weight, requires_grad=weight.requires_grad)
    if new_bias is not None:
        trainable = weight.requires_grad if bias is None else bias.requires_grad
        layer._parameters["bias"] = nn.Parameter(new_bias, requires_grad=trainable)


def _padded(layer: nn.Module, before: Affine) -> nn.Module:
    weight = layer.get_parameter("weight")
    return Padded(layer, padding_value(before).to(weight.device, weight.dtype))


def _bare(module: nn.Module, norms: set[nn.Module]) -> nn.Module:
    """What is left of a Normed, or of several around each other, without these norms."""
    while isinstance(module, Normed) and module.norm in norms:
        module = module.layer
    return module
