"""A path -> the files of a checkpoint: one file, the shards of an index, or what a folder holds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnretrofit.checkpoints.bounds import HEADER_BYTES, SHARDS
from bnretrofit.errors import InputRejectedError

__all__ = ["BEST", "FOLDED", "IN_FOLDERS", "LAST", "RETROFITTED", "STATE", "TRAINING", "Place", "place_of"]

BEST, LAST = "best.safetensors", "last.safetensors"
"""The weights of a run of ours."""
# What tools name a checkpoint in a folder of its own: a run of ours first, then what others save.
IN_FOLDERS = (
    *(BEST, LAST),
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
    *("model.safetensors", "pytorch_model.bin", "model_best.pth.tar", "last.pth.tar"),
)
INDEX = ".index.json"
RETROFITTED, TRAINING, FOLDED = "retrofitted.safetensors", "training", "folded.safetensors"
WHOLE_RUN = {
    FOLDED: "the trained weights with their norms folded",
    f"{TRAINING}/{BEST}": "the trained weights with norms",
    RETROFITTED: "those before training",
}
"""What `bnretrofit run` keeps, and what each is."""
SHOWN = 4
STATE = "state.safetensors"
"""Beside the weights of a run of ours: what it goes on from."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a checkpoint's tensors are.

    Attributes:
        path: What to name it by.
        files: The files that hold tensors, in the order of their names.
        index: The file that names them; None for a single one.
        keys: The tensors of each shard, by its name; None for a single file.
        notes: What was taken.
    """

    path: Path
    files: tuple[Path, ...]
    index: Path | None = None
    keys: dict[str, set[str]] | None = None
    notes: tuple[str, ...] = ()


def place_of(path: Path) -> Place:
    """Find a checkpoint's files.

    Raises:
        InputRejectedError: A folder holds none, or an index is damaged or names what is not beside it.
    """
    notes: tuple[str, ...] = ()
    if _is_folder(path):
        path = _in_folder(path)
        notes = (f"took {path.name} in {path.parent}",)
    if not path.name.endswith(INDEX):
        return Place(path, (path,), notes=notes)
    keys = _shards(path)
    files = tuple(path.parent / name for name in sorted(keys))
    return Place(path, files, path, keys, (*notes, f"took the {len(files)} shards that {path.name} names"))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputRejectedError("the checkpoint cannot be read", where=str(path), why=why) from error


def _in_folder(folder: Path) -> Path:
    _check_no_choice(folder)
    found = next((folder / name for name in IN_FOLDERS if (folder / name).is_file()), None)
    if found is None:
        files = sorted(file for file in folder.glob("*.safetensors") if file.is_file())
        if len(files) != 1:
            shown = ", ".join(file.name for file in files[:SHOWN]) + (" …" if len(files) > SHOWN else "")
            several = f"it holds several: {shown}" if files else "it holds none by a usual name"
            raise InputRejectedError(
                "the checkpoint cannot be read",
                where=str(folder),
                why=f"it is a folder, and {several}",
                remedy="pass the file itself",
            )
        (found,) = files
    return found


def _check_no_choice(folder: Path) -> None:
    """Refuse to choose for the user among what `bnretrofit run` keeps.

    Raises:
        InputRejectedError: The folder is one of its.
    """
    if not ((folder / TRAINING).is_dir() and (folder / RETROFITTED).is_file()):
        return
    there = {name: what for name, what in WHOLE_RUN.items() if (folder / name).is_file()}
    listed = ", or ".join(f"{folder / name} for {what}" for name, what in there.items())
    raise InputRejectedError(
        "the checkpoint cannot be read",
        where=str(folder),
        why="it is a folder of bnretrofit run, which holds several",
        remedy=f"pass {listed}",
    )


def _shards(index: Path) -> dict[str, set[str]]:
    """The tensors of each shard, by its name."""
    try:
        if index.stat().st_size > HEADER_BYTES:
            raise ValueError(f"it takes more than {HEADER_BYTES} bytes")
        document: Any = json.loads(index.read_text(encoding="utf-8"))
        keys: dict[str, set[str]] = {}
        for key, name in document["weight_map"].items():
            # Only what stands beside it: an index from a stranger could point anywhere.
            if not isinstance(name, str) or Path(name).name != name or "\\" in name or name in (".", ".."):
                raise ValueError(f"it names {name!r}, which is no file beside it")
            keys.setdefault(name, set()).add(key)
        if not 0 < len(keys) <= SHARDS:
            raise ValueError(f"it names {len(keys)} files")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise InputRejectedError("the index of shards cannot be read", where=str(index), why=why) from error
    return keys
