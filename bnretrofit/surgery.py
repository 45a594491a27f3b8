"""The edit itself: layers replaced in their places by `Normed`, and a second capture that shows what came of it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import fx, nn

from bnretrofit.batches import Batch, doubled
from bnretrofit.capture import Graph, capture, op_of, refuse_wrapped
from bnretrofit.copies import replace_modules, share_copy
from bnretrofit.errors import InputRejectedError
from bnretrofit.layers import kind_of
from bnretrofit.norms import is_fixed_norm, norm_for
from bnretrofit.readers import REARRANGED, readers
from bnretrofit.sites import Plan, Site
from bnretrofit.standing import Normed

__all__ = [
    "bypassed_sites",
    "check_sites",
    "inserted_norms",
    "is_plain_call",
    "norm_after",
    "place_norms",
    "plan_of",
    "record_plan",
    "runs_through",
]

PLAN_ATTRIBUTE = "bnretrofit_plan"


def check_sites(model: nn.Module, plan: Plan) -> None:
    """Look whether a plan is one of this model.

    Raises:
        InputRejectedError: The model lacks one of its layers, or has another in its place, or is wrapped.
    """
    refuse_wrapped(model)
    for site in plan.sites:
        try:
            layer = model.get_submodule(site.name)
        except AttributeError as error:
            raise InputRejectedError("the plan names a layer that the model does not have", where=site.name) from error
        kind = kind_of(layer)
        if kind is None or kind.name != site.kind or kind.channels(layer) != site.channels:
            raise InputRejectedError(
                f"the plan has a {site.kind} of {site.channels} channels, the model a {type(layer).__name__}",
                where=site.name,
                remedy="make the plan from this model",
            )


def place_norms(model: nn.Module, sites: Iterable[Site], norms: Mapping[str, nn.Module]) -> nn.Module:
    """Put each site's norm after its layer, or after the layer's activation, in place.

    Given: `features.0 = Conv2d`. Result: `features.0 = Normed(layer=Conv2d, norm=BatchNorm2d)`, at every place where
    the layer stands.

    Args:
        model: The model to edit.
        sites: Where norms go.
        norms: A norm per site name.

    Returns:
        The model; a new root if the site is the model itself.
    """
    standing: dict[nn.Module, nn.Module] = {}
    for site in sites:
        before = model.get_submodule(site.position)
        standing[before] = Normed(standing.get(before, before), norms[site.name])
    return replace_modules(model, standing)


def record_plan(model: nn.Module, plan: Plan) -> nn.Module:
    """Note on a retrofitted model what was inserted, so that `fold` can tell it from the norms the network had."""
    # Without the twin, which would be copied along with the model from now on.
    setattr(model, PLAN_ATTRIBUTE, replace(plan, like=None))
    return model


def plan_of(model: nn.Module) -> Plan | None:
    """The plan with which a model was retrofitted; None if it was not."""
    plan = getattr(model, PLAN_ATTRIBUTE, None)
    return plan if isinstance(plan, Plan) else None


def inserted_norms(model: nn.Module) -> set[str] | None:
    """Names of the norms that were inserted, in the model or in a part of it; None if nothing ever was."""
    found: set[str] = set()
    retrofitted = False
    for name, module in model.named_modules():
        plan = plan_of(module)
        names = ["norm"] if isinstance(module, Normed) else []
        names += [site.norm_name for site in plan.sites] if plan is not None else []
        retrofitted |= plan is not None or bool(names)
        found |= {f"{name}.{norm}".lstrip(".") for norm in names}
    return found if retrofitted else None


def bypassed_sites(
    model: nn.Module, sites: Iterable[Site], example: Batch, *, training: bool
) -> tuple[dict[str, str], list[str]]:
    """Insert blank norms into a copy and look whether the model really runs them.

    An inserted identity that a model goes around shows nothing in its outputs; the graph shows it.

    Args:
        model: The model, which is left as it is.
        sites: The sites to try.
        example: One batch.
        training: Look in training mode too, besides eval mode.

    Returns:
        Reasons by site name for those whose layer is read around its norm, and what could not be checked.
    """
    sites = list(sites)
    if not sites:
        return {}, []
    copy = share_copy(model)
    copy = place_norms(copy, sites, {site.name: _blank(copy, site) for site in sites})
    bypassed: dict[str, str] = {}
    notes: list[str] = []
    for mode in ("eval", "training") if training else ("eval",):
        try:
            batch = example if mode == "eval" else doubled(example)
            graph = capture(copy, batch, training=mode == "training")
        except InputRejectedError as error:
            if mode == "eval":
                raise
            notes.append(f"training mode could not be checked for bypassed norms: {error.why}")
            continue
        for site in sites:
            if site.name not in bypassed and not runs_through(graph, site):
                bypassed[site.name] = (
                    f"the model goes around a norm after it in {mode} mode, as the graph after insertion shows"
                )
    return bypassed, notes


def norm_after(call: fx.Node) -> fx.Node | None:
    """The batch_norm that alone reads a call's output; None if something else reads it.

    One rearrangement may stand between: a channels-last norm flattens its input, and so do timm's norms of tokens.
    """
    node = call
    for _ in range(2):
        if len(read_by := readers(node)) != 1:
            return None
        (node,) = read_by
        if op_of(node).startswith("aten.batch_norm."):
            return node
        if not op_of(node).startswith(REARRANGED):
            return None
    return None


def is_plain_call(graph: Graph, node: fx.Node) -> bool:
    """Whether a batch_norm call is a stock norm's own: with its tensors and eps, by fixed statistics."""
    norm = graph.owner(node)
    if not is_fixed_norm(norm) or node.args[5]:
        return False
    held = [getattr(norm, name) for name in ("weight", "bias", "running_mean", "running_var")]
    read = [None if (use := graph.tensor(argument)) is None else use.tensor for argument in node.args[1:5]]
    same: bool = all(mine is theirs for mine, theirs in zip(held, read, strict=True))
    return same and held[2] is not None and bool(node.args[7] == norm.eps)


def _blank(model: nn.Module, site: Site) -> nn.Module:
    return norm_for(site.norm, site.channels, model.get_submodule(site.name))


def runs_through(graph: Graph, site: Site) -> bool:
    """Whether every call of a site's layer goes through its norm, in the graph after insertion."""
    weight = graph.model.get_submodule(site.result_name)._parameters["weight"]
    if weight is None:
        return False
    for node in graph.uses(weight):
        # After the activation, a norm follows the one call that reads the layer's.
        before = [node] if not site.activation else readers(node)
        norm = norm_after(before[0]) if len(before) == 1 else None
        if norm is None or graph.owners[norm] != site.norm_name:
            return False
    return True
