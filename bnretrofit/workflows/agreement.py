"""What a plan file says beside the names of layers, held against what is so: its model, the fields of its layers."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.sites import Plan, Site, Skip
from bnretrofit.workflows.opening import ModelChoice, Opened, open_model
from bnretrofit.workflows.planfile import PlanFile
from bnretrofit.zoo import ModelName, parse_model

__all__ = ["check_agreement", "open_agreed"]


def open_agreed(path: Path | None, model: ModelChoice, file: PlanFile | None) -> Opened:
    """Open the model that a plan file is for.

    Args:
        path: The checkpoint, as `opening.open_model` takes it.
        model: What the user said of the model.
        file: The plan file, which says which model it is where nothing else does; None if there is none.

    Returns:
        The model.

    Raises:
        UsageError: The plan file is for another model than the user or the checkpoint says.
        RetrofitError: The model cannot be opened.
    """
    if file is None or file.model is None:
        return open_model(path, model)
    planned = parse_model(file.model)
    if model.name is not None:
        _check_model(file, planned, parse_model(model.name), "-m says")
    opened = open_model(path, replace(model, otherwise=file.model))
    _check_model(file, planned, opened.name, "the checkpoint says")
    return opened


def check_agreement(file: PlanFile, plan: Plan) -> None:
    """Refuse a plan file that says what was not found: it is of another model, or its user wants what cannot be.

    Reasons are not compared: they are told anew, and with the file's choices in them they read otherwise.

    Args:
        file: What the file says.
        plan: What was found.

    Raises:
        InputRejectedError: Names the layer, the field and both values.
    """
    decisions: tuple[Site | Skip, ...] = (*plan.sites, *plan.skips)
    for decision in decisions:
        listed = file.sites if isinstance(decision, Site) else file.skips
        found = _as_json(decision)
        for key, given in listed.get(decision.name, {}).items():
            if key != "reason" and key in found and not _same(given, found[key]):
                raise InputRejectedError(
                    f"the plan file does not fit the model: of {decision.name!r} it says that {key} is "
                    f"{json.dumps(given)}, and it is {json.dumps(found[key])}",
                    where=str(file.path),
                    remedy="make the plan anew, or remove the field: of a layer only the name is needed",
                )
    if file.twin not in (None, plan.twin) or (file.tensors and file.tensors != plan.tensors):
        raise InputRejectedError(
            f"the plan file does not fit the model: what it says of its twin is not what was found for {file.like}",
            where=str(file.path),
            remedy="make the plan anew, or remove the entries 'twin' and 'tensors'",
        )


def _check_model(file: PlanFile, planned: ModelName, other: ModelName, said: str) -> None:
    if _identity(planned) != _identity(other):
        raise UsageError(
            f"the plan file is for {planned}, and {said} {other}",
            where=str(file.path),
            remedy="make a plan for this model, or remove the file's entry 'model' if the two are the same",
        )


def _identity(name: ModelName) -> tuple[str, str]:
    """A model's name in the one way to write it: a Python file may be named from another folder."""
    if name.library != "file":
        return name.library, name.name
    file, _, factory = name.name.rpartition(":")
    return str(Path(file).resolve()), factory


def _as_json(decision: Site | Skip) -> dict[str, Any]:
    """A decision's fields as a file has them: a tuple is a list there."""
    fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(decision)))
    return fields


def _same(given: Any, found: Any) -> bool:
    # In Python true is 1, and 16.0 is 16.
    return type(given) is type(found) and bool(given == found)
