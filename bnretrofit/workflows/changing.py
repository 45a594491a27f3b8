"""What a fold changed in an architecture and what it left, as a file has to say it to be opened again."""

from dataclasses import replace

from torch import nn

from bnretrofit.sites import FoldPlan, Plan
from bnretrofit.standing import Normed
from bnretrofit.workflows.opening import Opened
from bnretrofit.workflows.written import Changes

__all__ = ["changes_by", "new_keys", "plan_left"]


def changes_by(opened: Opened, network: nn.Module, plan: FoldPlan) -> Changes:
    """What the file must say for its architecture to be built again: norms that became nn.Identity, biases gained."""
    inserted = {f"{name}.norm".lstrip(".") for name, module in network.named_modules() if isinstance(module, Normed)}
    identities = [found.norm for found in plan.folds if found.norm not in inserted]
    # By the architecture's own names: a layer that stands beside its norm bears one more.
    own = {
        found.layer: found.layer.removesuffix(".layer")
        for found in plan.folds
        if f"{found.layer.removesuffix('.layer')}.norm" in inserted
    }
    biases = dict.fromkeys(own.get(found.layer, found.layer) for found in plan.folds if found.new_bias)
    padded = dict.fromkeys(own.get(found.layer, found.layer) for found in plan.folds if found.new_layer)
    before = opened.changes
    return Changes((*before.identities, *identities), (*before.biases, *biases), (*before.padded, *padded))


def new_keys(after: Changes, before: Changes) -> tuple[str, ...]:
    """Keys that a fold added to a file."""
    biases = (f"{name}.bias" for name in after.biases if name not in before.biases)
    # The convolution itself moves by one name, to stand beside its padding.
    pads = (f"{name}.{key}" for name in after.padded if name not in before.padded for key in ("pad.value", "layer.*"))
    return (*biases, *pads)


def plan_left(plan: Plan | None, done: FoldPlan) -> Plan | None:
    """The plan of the inserted norms that are still there; None if none is."""
    if plan is None or plan.twin is not None:
        return None
    staying = {leave.name for leave in done.leaves}
    sites = tuple(site for site in plan.sites if site.norm_name in staying)
    return replace(plan, sites=sites) if sites else None
