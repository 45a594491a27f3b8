"""A plan file and a model -> the plan that the file asks for, made anew from the model, or a refusal."""

from dataclasses import replace
from glob import escape

from torch import nn

from bnretrofit.batches import Batch
from bnretrofit.choices import nearest
from bnretrofit.errors import UsageError
from bnretrofit.planning import make_plan
from bnretrofit.sites import Plan
from bnretrofit.workflows.agreement import check_agreement
from bnretrofit.workflows.planfile import PlanFile

__all__ = ["follow"]

LEFT_OUT = "the plan file leaves it out"


def follow(file: PlanFile, model: nn.Module, example: Batch, like: nn.Module | None = None) -> Plan:
    """The plan whose sites are those that a plan file names.

    Nothing is taken over from the file but the names of its sites: a plan is a claim about the graph of a model, and
    the file may be of another model, or edited. Reasons and the shapes of the example are told anew; whatever else the
    file says must be what is found.

    Args:
        file: What the file asks for.
        model: The model it is to be followed in.
        example: One batch.
        like: The architecture that `file.like` names.

    Returns:
        The plan. A layer that could have a norm and is no site of the file is a skip.

    Raises:
        UsageError: The file names a layer that the model does not have, or that cannot get a norm; or it leaves one
            out that the other architecture has a norm for.
        InputRejectedError: The file says of a layer what is not true of it in this model.
    """
    possible = make_plan(model, example, placement=file.placement)
    _check_names(file, possible)
    plan = _restricted(file, possible, model, example, like)
    _check_sites(file, plan)
    check_agreement(file, plan)
    return plan


def _restricted(file: PlanFile, possible: Plan, model: nn.Module, example: Batch, like: nn.Module | None) -> Plan:
    """The plan of the file's sites as far as they can be, with the other layers as skips."""
    sites = {site.name for site in possible.sites}
    left_out = sites - file.sites.keys()
    # In full, and beside a glob that restricts nothing: so named, the layer that makes the output is taken too.
    added = sorted(file.sites.keys() - sites)
    include = ["*", *added] if added else None
    if like is not None:
        return make_plan(model, example, include=include, placement=file.placement, like=like)
    if not added and not left_out:
        return possible
    exclude = [escape(name) for name in sorted(left_out)]
    plan = make_plan(model, example, include=include, exclude=exclude, placement=file.placement)
    skips = (replace(skip, reason=LEFT_OUT) if skip.name in left_out else skip for skip in plan.skips)
    return replace(plan, skips=tuple(skips))


def _check_names(file: PlanFile, plan: Plan) -> None:
    known = [*(site.name for site in plan.sites), *(skip.name for skip in plan.skips)]
    for name in (*file.sites, *file.skips):
        if name not in known:
            raise UsageError(
                f"the model has no conv or dense layer {name!r}",
                where=str(file.path),
                remedy=nearest(name, known) or "bnretrofit plan shows the layers it has",
            )


def _check_sites(file: PlanFile, plan: Plan) -> None:
    """Refuse a plan whose sites are not the file's."""
    reasons = {skip.name: skip.reason for skip in plan.skips}
    for name in file.sites:
        if name in reasons:
            raise UsageError(
                f"the layer {name!r} cannot get a norm",
                where=str(file.path),
                why=reasons[name],
                remedy="take it out of the plan file's sites",
            )
    for site in plan.sites:
        if site.name not in file.sites:
            raise UsageError(
                f"the plan file leaves out the layer {site.name!r}",
                where=str(file.path),
                why=f"the {plan.twin} has a norm '{site.norm_name}' after it",
                remedy="make it a site again, or make a plan without --like",
            )
