"""model + plan + statistics -> the model with norms, computing the same function."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from bnretrofit.affine import fixed_norm
from bnretrofit.batches import device_of, dtype_of, example_from
from bnretrofit.capture import capture
from bnretrofit.comparison import tolerance_for
from bnretrofit.copies import independent_copy, share_copy
from bnretrofit.errors import InexactIdentityWarning, InputRejectedError, UsageError, VerificationError
from bnretrofit.identity import set_identity
from bnretrofit.moments import ChannelStats
from bnretrofit.norms import norm_for
from bnretrofit.proof import GraphComparison, compare_graphs, compare_without
from bnretrofit.sites import Plan, Site
from bnretrofit.surgery import check_sites, place_norms, plan_of, record_plan, runs_through
from bnretrofit.twins import COUNTER, carry

__all__ = ["INITS", "insert", "insert_blank", "insert_sharing"]

INITS = ("identity", "standardize")

Fill = Callable[[nn.Module, Site], None]
"""Sets the tensors of a site's new norm."""


def insert(model: nn.Module, plan: Plan, stats: Mapping[str, ChannelStats], *, init: str = "identity") -> nn.Module:
    """Put a BatchNorm after every site of the plan.

    Given: `features.0 = Conv2d`. Result: `features.0 = Normed(layer=Conv2d, norm=BatchNorm2d)`. With a plan made `like`
    a twin, the result is a model of the twin's class.

    Args:
        model: The network the plan was made for; it is left as it is, and shares no tensor with the result.
        plan: Where norms go.
        stats: What `calibrate` measured, by site name.
        init: "identity": the outputs do not change. "standardize": weight 1 and bias 0, with the statistics as they
            are given; those that the later norms then read are what `standardising.standardize` measures.

    Returns:
        The model with norms, in the mode of `model`.

    Raises:
        InputRejectedError: The plan or the statistics do not fit the model.
        VerificationError: The norms are not where the model would run them.
    """
    return independent_copy(insert_sharing(model, plan, stats, init=init))


def insert_sharing(
    model: nn.Module, plan: Plan, stats: Mapping[str, ChannelStats], *, init: str = "identity"
) -> nn.Module:
    """`insert`, with a result that shares the tensors of its argument: for callers that have no more use for it."""
    if init not in INITS:
        raise UsageError(f"unknown init '{init}'", remedy=f"choose from {', '.join(INITS)}")
    for site in plan.sites:
        _check_statistics(site, stats)
    return _insert(model, plan, partial(_fill, stats=stats, init=init), identity=init == "identity")


def insert_blank(model: nn.Module, plan: Plan) -> nn.Module:
    """`insert_sharing` of norms as torch makes them: mean 0, variance 1, weight 1, bias 0."""
    return _insert(model, plan, _leave, identity=False)


def _insert(model: nn.Module, plan: Plan, fill: Fill, *, identity: bool) -> nn.Module:
    before = plan_of(model)
    if before is not None and before.twin is not None:
        raise InputRejectedError(
            f"the model was retrofitted like a {before.twin} already", remedy="fold it first, or retrofit the original"
        )
    check_sites(model, plan)
    if plan.twin is None:
        return record_plan(_in_place(model, plan, fill), plan)
    return record_plan(_into_twin(model, plan, fill, identity=identity), plan)


def _check_statistics(site: Site, stats: Mapping[str, ChannelStats]) -> None:
    if site.name not in stats:
        raise InputRejectedError(
            "there are no statistics for the site", where=site.name, remedy="calibrate with the same plan"
        )
    found = stats[site.name]
    if found.mean.shape != (site.channels,) or found.var.shape != (site.channels,):
        raise InputRejectedError(f"the statistics are not those of {site.channels} channels", where=site.name)
    if found.count < 2:
        raise InputRejectedError(
            "a variance needs more than one value per channel", where=site.name, remedy="calibrate with more samples"
        )


def _leave(norm: nn.Module, site: Site) -> None:
    """Leave a norm as it was made."""


def _fill(norm: nn.Module, site: Site, *, stats: Mapping[str, ChannelStats], init: str) -> None:
    """Set a norm's tensors as `init` says."""
    if init == "standardize":
        held = fixed_norm(norm)
        held.mean.copy_(stats[site.name].mean)
        held.var.copy_(stats[site.name].unbiased_var)
        return
    try:
        exact = set_identity(norm, stats[site.name])
    except InputRejectedError as error:
        raise InputRejectedError(error.what, where=site.name, why=error.why) from error
    if not bool(exact.all()):
        inexact = int((~exact).sum())
        channels = f"{inexact} of {len(exact)} channels"
        text = f"{site.name}: no exact identity on {channels} with this device's kernel; see verify"
        warnings.warn(text, InexactIdentityWarning, stacklevel=2)


def _in_place(model: nn.Module, plan: Plan, fill: Fill) -> nn.Module:
    copy = share_copy(model)
    norms = {}
    for site in plan.sites:
        norms[site.name] = norm_for(site.norm, site.channels, copy.get_submodule(site.name))
        fill(norms[site.name], site)
    result = place_norms(copy, plan.sites, norms)
    example = example_from(plan.inputs, device_of(model))
    graph = capture(result, example)
    for site in plan.sites:
        if not runs_through(graph, site):
            raise VerificationError("the model goes around the norm", where=site.name, remedy="exclude the layer")
    same = compare_without(capture(model, example), graph, {site.norm_name for site in plan.sites})
    _require(same, graph.model, model, close=same.same_tensors)
    return result


def _require(same: GraphComparison, result: nn.Module, model: nn.Module, *, close: bool) -> None:
    """Refuse a result that runs other operators, norms aside, or other tensors."""
    if not (same.same_operators and close):
        raise VerificationError(
            f"the {type(result).__name__} with norms does not compute what the {type(model).__name__} computes",
            where=same.layer,
            why=same.difference,
            remedy="exclude the layers that the model's own code tells apart by their class",
        )


def _into_twin(model: nn.Module, plan: Plan, fill: Fill, *, identity: bool) -> nn.Module:
    if not isinstance(plan.like, nn.Module):
        raise InputRejectedError(
            f"the plan was made like a {plan.twin}, which is not at hand",
            remedy="make the plan anew with like=, or attach it: dataclasses.replace(plan, like=model)",
        )
    device = device_of(model)
    ours = model.state_dict(keep_vars=True)
    state: dict[str, Tensor] = {name: ours[source] for name, source in plan.tensors.items()}
    for site in plan.sites:
        # A norm of the twin's own class and eps, with real tensors even where the twin is on the meta device.
        norm = type(plan.like.get_submodule(site.norm_name))(
            site.channels, eps=plan.like.get_submodule(site.norm_name).eps
        )
        norm = norm.to(device=device, dtype=_norm_dtype(model, site))
        fill(norm, site)
        state |= {f"{site.norm_name}.{leaf}": value.detach() for leaf, value in norm.state_dict().items()}
        state.setdefault(f"{site.norm_name}.{COUNTER}", torch.zeros((), dtype=torch.long, device=device))
    result = carry(plan.like, state, training=model.training)
    example = example_from(plan.inputs, device)
    same = compare_graphs(capture(model, example), capture(result, example))
    close = not identity or same.tensor_error <= tolerance_for(dtype_of(model)).tensor
    _require(same, result, model, close=close)
    return result


def _norm_dtype(model: nn.Module, site: Site) -> torch.dtype:
    return torch.float64 if model.get_submodule(site.name).weight.dtype == torch.float64 else torch.float32
