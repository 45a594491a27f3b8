"""A plan file as `bnretrofit plan --json` printed it, or as somebody wrote or edited it -> what it asks for."""

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.sites import PLAN_SCHEMA, Plan, Site, Skip

__all__ = ["PlanFile", "read_plan_file"]

# Of the command's document, which wraps the plan's and then names the plan's own version `plan_schema_version`.
DOCUMENT_SCHEMA = 1

ENVELOPE = {"schema_version", "plan_schema_version", "command", "status", "exit_code", "model", "like", "graph"}
ENTRIES = ENVELOPE | {item.name for item in dataclasses.fields(Plan)}
# Of a site and of a skip alike: users move them from one list to the other.
FIELDS = {item.name for decision in (Site, Skip) for item in dataclasses.fields(decision)}


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What a plan file asks for. Only names are followed; what else it says must be what a new plan says.

    Attributes:
        path: The file.
        sites: By the name of each layer that is to get a norm: all fields that the file gives.
        skips: By the name of each layer that is not: all fields that the file gives.
        model: Name of the model it was made for; None if it does not say.
        like: Name of the architecture that the result is to have, where that is another.
        placement: As `planning.make_plan` takes it.
        twin: Class of that other architecture, where the file gives it.
        tensors: Tensor names of the other architecture -> tensor names of the model, where the file gives them.
    """

    path: Path
    sites: dict[str, dict[str, Any]]
    skips: dict[str, dict[str, Any]]
    model: str | None
    like: str | None
    placement: str
    twin: str | None
    tensors: dict[str, str]


def read_plan_file(path: Path) -> PlanFile:
    """Read a plan file.

    Args:
        path: The file: a document of `bnretrofit plan --json`, or as little as `{"sites": [{"name": "features.0"}]}`.

    Returns:
        What it asks for; whether a model can follow it is not looked at.

    Raises:
        InputRejectedError: The file is missing, no JSON, of another version, or contradicts itself.
        UsageError: It names no layer, or the class of a twin without the twin's name.
    """
    document = _json(path)
    try:
        read = _checked(path, document)
    except (TypeError, ValueError) as error:
        raise InputRejectedError(
            "this is no plan", where=str(path), why=str(error), remedy="make one with bnretrofit plan --json"
        ) from error
    if not read.sites:
        raise UsageError("the plan file names no layer", where=str(path), remedy="its list of sites must not be empty")
    if read.twin is not None and read.like is None:
        raise UsageError(
            f"the plan was made like a {read.twin}, and does not say which model that is",
            where=str(path),
            remedy='give the file an entry "like": "MODEL"',
        )
    return read


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_without_repetition)
    except OSError as error:
        why = "it is a folder" if path.is_dir() else "there is no such file" if not path.exists() else error.strerror
        raise InputRejectedError("the plan file cannot be read", where=str(path), why=why) from error
    except (ValueError, RecursionError) as error:
        # The decoder's message names line and column; a codec's quotes the file, and says nothing to whoever wrote it.
        why = "it is no text" if isinstance(error, UnicodeError) else str(error)
        raise InputRejectedError("the plan file is no proper JSON", where=str(path), why=why) from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # json would take the last of two, and an edit of the first be lost without a word.
    if repeated := _repeated([key for key, _ in pairs]):
        raise ValueError(f"an object has the entry {repeated!r} twice")
    return dict(pairs)


def _checked(path: Path, document: Any) -> PlanFile:
    if not isinstance(document, dict):
        raise TypeError(f"it is a {type(document).__name__}, not an object")
    _check_origin(document)
    if unknown := sorted(document.keys() - ENTRIES):
        raise ValueError(f"a plan has no entry {unknown[0]!r}")
    sites, skips = _decisions(document, "sites"), _decisions(document, "skips")
    if repeated := _repeated([*sites, *skips]):
        raise ValueError(f"the layer {repeated!r} is among the sites and among the skips")
    return PlanFile(
        path=path,
        sites=sites,
        skips=skips,
        model=_text(document, "model"),
        like=_text(document, "like"),
        placement=_text(document, "placement") or "pre",
        twin=_text(document, "twin"),
        tensors=_tensors(document.get("tensors")),
    )


def _check_origin(document: dict[str, Any]) -> None:
    """Refuse what another command printed, a plan that failed, and another version's."""
    command, status = document.get("command", "plan"), document.get("status", "ok")
    if (command, status) != ("plan", "ok"):
        raise ValueError(f"bnretrofit {command} printed it, with the status {status!r}")
    outer = DOCUMENT_SCHEMA if "plan_schema_version" in document else PLAN_SCHEMA
    for key, expected in (("schema_version", outer), ("plan_schema_version", PLAN_SCHEMA)):
        given = document.get(key, expected)
        if given != expected:
            raise ValueError(f"its {key} is {given!r}, where this version reads {expected}")


def _decisions(document: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """The entries of one list, by the name of the layer."""
    entries = document.get(key, None if key == "sites" else [])
    if not isinstance(entries, list):
        raise TypeError(f"it has no list of {key}")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise TypeError(f"{key}[{number}] is no object with a name")
        if unknown := sorted(entry.keys() - FIELDS):
            raise ValueError(f"{key}[{number}], {entry['name']!r}, has a field {unknown[0]!r} that no plan has")
    if repeated := _repeated([entry["name"] for entry in entries]):
        raise ValueError(f"the layer {repeated!r} is among the {key} twice")
    return {entry["name"]: entry for entry in entries}


def _repeated(names: list[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _text(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    if not isinstance(value, (str, type(None))):
        raise TypeError(f"its entry {key!r} is no text")
    return value


def _tensors(value: Any) -> dict[str, str]:
    if not isinstance(value, (dict, type(None))):
        raise TypeError("its entry 'tensors' is no object")
    return value or {}
