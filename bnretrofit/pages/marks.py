"""A plan of insertion or of folding -> what a picture says of each layer."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bnretrofit.sites import Plan

__all__ = ["Mark", "marks_of_folds", "marks_of_plan"]


@dataclass(frozen=True, slots=True)
class Mark:
    """What is to be said of a layer.

    Attributes:
        state: "planned", "inserted", "folded" or "skipped".
        name: What the layer is called to the user: its name in the original model.
        note: Why, as a sentence.
        norm: The class of the norm that it gets or has; empty for none.
        norm_name: The norm's module name, where it is in the model.
        after: The activation module that the norm stands after; empty where it follows the layer itself.
    """

    state: str
    name: str
    note: str = ""
    norm: str = ""
    norm_name: str = ""
    after: str = ""


def marks_of_plan(plan: Plan, *, inserted: bool) -> dict[str, Mark]:
    """The marks of a plan.

    Args:
        plan: The plan.
        inserted: Whether the picture is of the result; otherwise it is of the original model.

    Returns:
        By the layers' names in the model that is drawn.
    """
    found = {}
    for site in plan.sites:
        note = "" if site.calls == 1 else f"it is called {site.calls} times, and all calls share the norm"
        # A twin has names of its own.
        name = site.result_name if inserted and plan.twin is not None else site.name
        mark = Mark("inserted" if inserted else "planned", name, note, site.norm, site.norm_name, site.activation)
        found[site.result_name if inserted else site.name] = mark
    for skip in plan.skips:
        name = _name_in_twin(plan, skip.name) if inserted else skip.name
        found[name] = Mark("skipped", name, skip.reason)
    return found


def _name_in_twin(plan: Plan, name: str) -> str:
    wanted = f"{name}.weight"
    return next((key.removesuffix(".weight") for key, source in plan.tensors.items() if source == wanted), name)


def marks_of_folds(folds: Iterable[Any]) -> dict[str, Mark]:
    """The marks of a folded model.

    Args:
        folds: What `sites.FoldPlan.to_json` lists as folds; entries of another form are passed over.

    Returns:
        By the layers' names in the folded model.
    """
    found = {}
    for fold in folds:
        if isinstance(fold, dict) and isinstance(fold.get("layer"), str) and isinstance(fold.get("norm"), str):
            # The layer stood in a module of two, which folding took away.
            name = fold["layer"].removesuffix(".layer")
            kept = f"; {fold.get('unchanged')} of {fold.get('channels')} channels kept their weights bit for bit"
            found[name] = Mark("folded", name, f"the norm '{fold['norm']}' was folded into it{kept}", "BatchNorm")
    return found
