"""Which files a checkpoint's are at a moment: while they are read, their writer may put others in their place."""

import os
from pathlib import Path

from bnretrofit.checkpoints.places import Place
from bnretrofit.errors import InputRejectedError

__all__ = ["State", "changed", "state_of", "states_of"]

State = tuple[int, int, int, int]


def state_of(found: os.stat_result) -> State:
    """What differs once a file is another one, or holds something else."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def states_of(place: Place) -> dict[Path, State | None]:
    """The state of each of a checkpoint's files; None where there is none."""
    found: dict[Path, State | None] = {}
    for path in (*(() if place.index is None else (place.index,)), *place.files):
        try:
            found[path] = state_of(path.stat())
        except (OSError, ValueError):
            found[path] = None
    return found


def changed(path: Path) -> InputRejectedError:
    """The error of a checkpoint that does not stand still."""
    return InputRejectedError(
        "the checkpoint changed while it was read", where=str(path), remedy="wait until whatever writes it is done"
    )
