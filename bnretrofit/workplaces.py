"""A folder beside an output in which it is made: one writer at a time, and nothing of it left afterwards.

Given: `out/new.pth`. Result: `out/.new.pth.bnretrofit/`, with a lock in it that the system takes back from a process
that dies. What a dead process left is swept by the next one that writes into `out`.
"""

import errno
import os
import stat
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from weakref import WeakSet

from bnretrofit.errors import ResourceError, UsageError

try:
    import fcntl
except ImportError:  # a system without such locks: writers there are not told apart
    fcntl = None  # type: ignore[assignment]

__all__ = ["Workplace", "sweep"]

SUFFIX = ".bnretrofit"
LOCK = "bnretrofit.lock"
MADE = ("new.", ".tmp")
LONG_NAME = 200
PATIENCE, PAUSE = 2.0, 0.02
"""Seconds: how long another writer is waited for, and how often it is looked at."""


class Workplace:
    """The folder in which one output is made, while this process holds it.

    Args:
        output: The output.

    Raises:
        UsageError: Another process is writing the same output.
        ResourceError: The folder cannot be written to.
    """

    def __init__(self, output: Path) -> None:
        self.folder = _folder_for(output)
        sweep(output.parent)
        try:
            lock = _acquired(self.folder)
        except OSError as error:
            raise ResourceError("the output cannot be written", where=str(output), why=str(error)) from error
        if lock is None:
            raise UsageError(
                "the output is being written by another process",
                where=str(output),
                remedy="wait for it, or choose another name",
            )
        self._lock: int | None = lock
        _ENTERED.add(self)
        self.mode = os.fstat(lock).st_mode & 0o777

    def leave(self) -> None:
        """Remove the folder with all that is in it, and let the next writer in; once."""
        lock, self._lock = self._lock, None
        if lock is not None:
            _empty(self.folder)
            _removed(self.folder, lock)

    def forget(self) -> None:
        """In a process that was forked meanwhile: the place is its parent's, and its lock ends with that one."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def __del__(self) -> None:
        # An interruption may come before whoever made it could say what is to be done at the end.
        if getattr(self, "_lock", None) is not None:
            self.leave()


_ENTERED: WeakSet[Workplace] = WeakSet()


def _forget_all() -> None:
    for place in list(_ENTERED):
        place.forget()


if hasattr(os, "register_at_fork"):
    # A process that decodes images outlives a killed parent by some seconds; the lock must not live as long.
    os.register_at_fork(after_in_child=_forget_all)


def sweep(parent: Path) -> None:
    """Remove what writers that died have left in a folder."""
    for folder in parent.glob(f".*{SUFFIX}"):
        # Somebody else's folder, or one that is being removed just now, is left to them.
        with suppress(OSError):
            lock = _opened(folder, create=False)
            if lock is None:
                folder.rmdir()
            elif _is_held(folder, lock):
                _empty(folder)
                _removed(folder, lock)


def _folder_for(output: Path) -> Path:
    # A name near the file system's limit leaves no room for more.
    name = output.name if len(os.fsencode(output.name)) < LONG_NAME else sha256(os.fsencode(output.name)).hexdigest()
    return output.with_name(f".{name}{SUFFIX}")


def _acquired(folder: Path) -> int | None:
    """The lock of a folder that is made for it; None if another process holds it, and goes on holding it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(FileExistsError):
            folder.mkdir()
        # It may be removed by its last writer at any moment; then it is made anew.
        lock = _opened(folder, create=True)
        if lock is not None and _is_held(folder, lock):
            _empty(folder)
            return lock
        # Who sweeps holds a lock for a moment, too.
        time.sleep(PAUSE)
    return None


def _opened(folder: Path, *, create: bool) -> int | None:
    """The lock's file; None if there is none.

    Raises:
        OSError: What bears the folder's name is somebody else's.
    """
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "it is no folder of bnretrofit's", str(folder))
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
        if not create:
            return os.open(folder / LOCK, flags)
        # Another writer may put its lock and its file there at this very moment: they are nobody else's.
        strange = (path for path in folder.iterdir() if path.name != LOCK and not path.name.startswith(MADE))
        if not (folder / LOCK).exists() and any(strange):
            raise FileExistsError(errno.EEXIST, "it is a folder of somebody else's", str(folder))
        return os.open(folder / LOCK, flags | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None


def _is_held(folder: Path, lock: int) -> bool:
    """Take the lock, if it is free and still the one that is there; otherwise close it."""
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), (folder / LOCK).stat()):
            return True
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        # A file system without locks.
        return True
    os.close(lock)
    return False


def _empty(folder: Path) -> None:
    """Remove what is made here: our file, and those through which safetensors writes."""
    with suppress(OSError):
        for path in folder.iterdir():
            if not path.name.startswith(MADE):
                continue
            if path.is_dir() and not path.is_symlink():
                rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _removed(folder: Path, lock: int) -> None:
    with suppress(OSError):
        (folder / LOCK).unlink()
        # Not empty if the next writer is in it already.
        folder.rmdir()
    os.close(lock)
