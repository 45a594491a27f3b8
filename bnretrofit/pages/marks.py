"""A plan of insertion or of folding -> what a picture says of each layer."""

from collections.abc import Collection
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


def marks_of_folds(record: Any, layers: Collection[str]) -> tuple[dict[str, Mark], int]:
    """The marks of a folded model.

    Args:
        record: What the file says of its folds: a list of {"norm", "layer", "into", "channels", "unchanged"}; entries
            of another form are passed over.
        layers: Names of the model's layers.

    Returns:
        By the names of the layers whose norms were folded; and how many folds have no layer here.
    """
    told: dict[str, list[str]] = {}
    lost = 0
    for fold in record if isinstance(record, list) else ():
        layer = fold.get("layer") if isinstance(fold, dict) else None
        if isinstance(layer, str) and layer in layers:
            told.setdefault(layer, []).append(_told(fold))
        else:
            lost += 1
    return {name: Mark("folded", name, "; ".join(texts), "BatchNorm") for name, texts in told.items()}, lost


def _told(fold: dict[str, Any]) -> str:
    norm, layer, into = fold.get("norm"), fold["layer"], fold.get("into")
    if into is None:
        return f"the norm '{norm}' was the identity, and was taken out"
    where = "it" if into == layer else f"'{into}'"
    kept = f"{fold.get('unchanged')} of {fold.get('channels')} channels kept their weights bit for bit"
    return f"the norm '{norm}' was folded into {where}; {kept}"
