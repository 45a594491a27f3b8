"""What a fold changed in an architecture and what it left, as a file has to say it to be opened again."""

from dataclasses import replace
from typing import Any

from torch import nn

from bnretrofit.sites import FoldPlan, Plan
from bnretrofit.standing import Normed
from bnretrofit.workflows.opening import Opened
from bnretrofit.workflows.written import Changes

__all__ = ["changes_by", "fold_record", "new_keys", "plan_left"]


def changes_by(opened: Opened, network: nn.Module, plan: FoldPlan) -> Changes:
    """What the file must say for its architecture to be built again: norms that became nn.Identity, biases gained."""
    inserted = _inserted(network)
    identities = [found.norm for found in plan.folds if found.norm not in inserted]
    own = _own_names(plan, inserted)
    biases = dict.fromkeys(own.get(found.layer, found.layer) for found in plan.folds if found.new_bias)
    padded = dict.fromkeys(own.get(found.layer, found.layer) for found in plan.folds if found.new_layer)
    before = opened.changes
    return Changes((*before.identities, *identities), (*before.biases, *biases), (*before.padded, *padded))


def _inserted(network: nn.Module) -> set[str]:
    return {f"{name}.norm".lstrip(".") for name, module in network.named_modules() if isinstance(module, Normed)}


def _own_names(plan: FoldPlan, inserted: set[str]) -> dict[str, str]:
    """The architecture's own names: a layer that stands beside its norm bears one more."""
    return {
        found.layer: found.layer.removesuffix(".layer")
        for found in plan.folds
        if f"{found.layer.removesuffix('.layer')}.norm" in inserted
    }


def fold_record(opened: Opened, network: nn.Module, plan: FoldPlan, *, renamed: bool) -> list[dict[str, Any]]:
    """What a file says of the norms that were folded, those of earlier folds among them.

    Args:
        opened: What was folded.
        network: Its network, with the norms.
        plan: How it was folded.
        renamed: Whether the result has another architecture's names, by which no layer is known here.

    Returns:
        Of each norm its name, the layer that it followed (None where that is not known by the result's names), what
        took it, and how many of its channels kept their weights.
    """
    header = (None if opened.checkpoint is None else opened.checkpoint.header) or {}
    before = header.get("folds") if not renamed else None
    own = _own_names(plan, _inserted(network))
    sites = {} if opened.plan is None else {site.norm_name: site.name for site in opened.plan.sites}
    twin = opened.plan is not None and opened.plan.twin is not None
    record = []
    for found in plan.folds:
        taken_by = own.get(found.layer, found.layer)
        layer = sites.get(found.norm, taken_by if found.direction == "backward" else None) if not twin else taken_by
        record.append(
            {
                "norm": found.norm,
                "layer": None if renamed else layer,
                "into": None if found.direction == "none" or renamed else taken_by,
                "channels": found.channels,
                "unchanged": found.unchanged,
            }
        )
    return [*(before if isinstance(before, list) else []), *record]


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
