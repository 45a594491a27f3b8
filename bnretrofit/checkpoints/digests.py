"""The sha256 of a file, and the one that a file of ours bears of itself."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from bnretrofit.checkpoints.headers import DIGEST_KEY, SEAL, TensorsHeader
from bnretrofit.checkpoints.states import State, changed, state_of

__all__ = ["BLANK", "ROOM", "file_digest", "in_background", "own_digest", "sealed", "stamped"]

PIECE = 1 << 24
_T = TypeVar("_T")
ROOM = b"~" * len(SEAL)
"""Keeps room for the seal, until the header is there."""

BLANK = "0" * 64
"""Stands in the header while the file is hashed: a file's digest is its sha256 with these 64 digits in place of it."""


def in_background(work: Callable[[], _T]) -> "Future[_T]":
    """Start work in a thread: hashing releases the interpreter, and takes as long as all else done with a file."""
    executor = ThreadPoolExecutor(1)
    future = executor.submit(work)
    executor.shutdown(wait=False)
    return future


def file_digest(path: Path, state: State | None) -> str:
    """The sha256 of a file, as sha256sum prints it.

    Raises:
        InputRejectedError: It is not in this state, so it was replaced or changed since it was read.
    """
    try:
        return _hashed(path, b"", state)
    except OSError as error:
        raise changed(path) from error


def own_digest(path: Path, header: TensorsHeader) -> str:
    """The digest that a file of ours should bear."""
    return _hashed(path, stamped(header.raw, header.digest or "", BLANK))


def stamped(raw: bytes, old: str, new: str) -> bytes:
    """A header's bytes with one digest in place of another."""
    # The document stands in the header as a text within JSON, where a quote has a backslash before it.
    before, after = (f'\\"{DIGEST_KEY}\\": \\"{digest}\\"'.encode() for digest in (old, new))
    return raw.replace(before, after, 1)


def sealed(raw: bytes) -> bytes:
    """A header's bytes with the room that was kept for the seal moved to their end, where the seal stands."""
    start = raw.rindex(ROOM)
    return raw[:start] + raw[start + len(ROOM) :] + SEAL


def _hashed(path: Path, start: bytes, state: State | None = None) -> str:
    """The sha256 of a file whose first bytes are taken to be others."""
    # In larger pieces than hashlib's own: after each one the thread waits for the interpreter, up to 5 ms.
    found, buffer = hashlib.sha256(start), memoryview(bytearray(PIECE))
    with path.open("rb", buffering=0) as file:
        file.seek(len(start))
        while size := file.readinto(buffer):
            found.update(buffer[:size])
        if state is not None and state_of(os.fstat(file.fileno())) != state:
            raise changed(path)
    return found.hexdigest()
