"""The sha256 of a file, and the one that a file of ours bears of itself."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
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


def file_digest(path: Path, state: State | None, file: FileIO | None = None) -> str:
    """The sha256 of a file, as sha256sum prints it.

    Args:
        path: The file.
        state: What it was when it was read.
        file: The file opened, so that it stays the same whatever takes its place; it is closed. None to open it.

    Raises:
        InputRejectedError: It is not in this state, so it was replaced or changed since it was read.
    """
    try:
        with file or path.open("rb", buffering=0) as source:
            found = _hashed(source, b"")
            now = state_of(os.fstat(source.fileno()))
    except OSError as error:
        raise changed(path) from error
    if now != state:
        raise changed(path)
    return found


def own_digest(path: Path, header: TensorsHeader) -> str:
    """The digest that a file of ours should bear."""
    with path.open("rb", buffering=0) as file:
        return _hashed(file, stamped(header.raw, header.digest or "", BLANK))


def stamped(raw: bytes, old: str, new: str) -> bytes:
    """A header's bytes with one digest in place of another."""
    # The document stands in the header as a text within JSON, where a quote has a backslash before it.
    before, after = (f'\\"{DIGEST_KEY}\\": \\"{digest}\\"'.encode() for digest in (old, new))
    return raw.replace(before, after, 1)


def sealed(raw: bytes) -> bytes:
    """A header's bytes with the room that was kept for the seal moved to their end, where the seal stands."""
    start = raw.rindex(ROOM)
    return raw[:start] + raw[start + len(ROOM) :] + SEAL


def _hashed(file: FileIO, start: bytes) -> str:
    """The sha256 of a file whose first bytes are taken to be others."""
    # In larger pieces than hashlib's own: after each one the thread waits for the interpreter, up to 5 ms.
    found, buffer = hashlib.sha256(start), memoryview(bytearray(PIECE))
    file.seek(len(start))
    while size := file.readinto(buffer):
        found.update(buffer[:size])
    return found.hexdigest()
