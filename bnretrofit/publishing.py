"""Checkpoint files out: written whole or not at all."""

import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors import SafetensorError
from torch import Tensor

from bnretrofit.errors import ResourceError, UsageError
from bnretrofit.originals import check_originals
from bnretrofit.serialising import SUFFIXES, Header, serialise
from bnretrofit.workplaces import Workplace

__all__ = [
    "PendingFile",
    "PendingFolder",
    "PendingOutput",
    "check_output",
    "check_place",
    "check_space",
    "publish_file",
    "publish_text",
    "write",
]

MARGIN = 1 << 20
"""Bytes beside the tensors: the header, and what the file system takes."""


def check_output(path: Path, *, overwrite: bool, inputs: Iterable[Path | None] = ()) -> None:
    """Refuse a checkpoint that cannot be written, before any work is done; sweep what a dead process left of it.

    Args:
        path: The output.
        overwrite: It may exist.
        inputs: What is read: see `check_place`.

    Raises:
        UsageError: Its name says no known format; or see `check_place`.
        ResourceError: The folder cannot be written to.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"the output's format is not known by its name '{path.name}'", remedy="name it .safetensors or .pth"
        )
    check_place(path, overwrite=overwrite, inputs=inputs)


def check_place(
    path: Path, *, overwrite: bool, own: Collection[str] | None = None, inputs: Iterable[Path | None] = ()
) -> None:
    """Refuse any output that cannot be written, before any work is done; sweep what a dead process left of it.

    Args:
        path: The output.
        overwrite: It may exist.
        own: Names of the files of a folder that is to be written; None for a file. The folder may exist if it is empty,
            and with `overwrite` if it holds nothing but such files.
        inputs: What is read, and not to be replaced: see `originals.check_originals`.

    Raises:
        UsageError: It is an input, it exists and `overwrite` is False, its folder does not exist, or another process is
            writing it.
        ResourceError: The folder cannot be written to.
    """
    check_originals([path] if own is None else [path / name for name in own], inputs)
    if not path.parent.is_dir():
        raise UsageError("the output's folder does not exist", where=str(path.parent), remedy="make the folder first")
    try:
        with suppress(FileNotFoundError):
            path.lstat()
        if own is not None and path.is_dir():
            held = {item.name for item in path.iterdir()}
            taken = bool(held) and not (overwrite and held <= set(own))
        else:
            taken = path.is_dir() or (path.exists() and (own is not None or not overwrite))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError("the output cannot have that name", where=str(path), why=why) from error
    if taken:
        raise _exists(path)
    # Whatever keeps it from being written is better known now: work of hours may come before it.
    Workplace(path).leave()


def check_space(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse an output that the disk has no room for, before any work is done. What it replaces stays until the end.

    Raises:
        ResourceError: There is too little room.
    """
    needed = sum(tensor.nbytes for tensor in tensors.values()) + MARGIN
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise ResourceError(
            "the output does not fit on the disk",
            where=str(path),
            why=f"it takes {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free",
            remedy="free some space, or choose another place",
        )


def write(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any] | None, *, overwrite: bool = False
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: `.safetensors` holds the header too, and a digest of itself; `.pth` is a plain state_dict.
        tensors: Tensors by key.
        header: What to say of the file, as a JSON document.
        overwrite: Replace a file that exists; it is kept until the new one is whole.

    Raises:
        UsageError: See `check_output`; or another process is writing it.
        ResourceError: The disk is full or the folder cannot be written to.
    """
    with PendingOutput(path, tensors, lambda: header, overwrite=overwrite) as output:
        output.publish()


def publish_file(path: Path, writing: Callable[[Path], None], *, overwrite: bool = False) -> None:
    """Write a file of any kind, whole or not at all.

    Args:
        path: The file.
        writing: Writes it at the path that it is given, which has the same suffix.
        overwrite: Replace a file that exists; it is kept until the new one is whole.

    Raises:
        UsageError: See `check_place`.
        ResourceError: The disk is full or the folder cannot be written to.
    """
    with PendingFile(path, writing, overwrite=overwrite) as pending:
        pending.publish()


def publish_text(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write a text, whole or not at all; see `publish_file`."""

    def writing(made: Path) -> None:
        made.write_text(text, encoding="utf-8")

    publish_file(path, writing, overwrite=overwrite)


class PendingFile:
    """A file that is being written in a folder of its own while its content is still being judged.

    Writing a large file takes as long as verifying it, and neither holds the interpreter: so they go on side by side.
    Leaving the context without `publish` leaves nothing behind.

    Args:
        path: Where it is to be.
        writing: Writes it at the path that it is given; called in the writing thread.
        overwrite: Replace a file that exists.

    Raises:
        UsageError: See `check_place`.
        ResourceError: The folder cannot be written to.
    """

    own: Collection[str] | None = None

    def __init__(self, path: Path, writing: Callable[[Path], None], *, overwrite: bool) -> None:
        check_place(path, overwrite=overwrite, own=self.own)
        self._path, self._overwrite = path, overwrite
        self._workplace = Workplace(path)
        self._made = self._workplace.folder / f"new{path.suffix or '.folder'}"
        self._executor = ThreadPoolExecutor(1)
        self._written = self._executor.submit(writing, self._made)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._executor.shutdown(wait=True, cancel_futures=True)
        finally:
            # A second Ctrl-C ends the waiting, not the sweeping: the writer then goes on in a file without a name.
            self._workplace.leave()

    def made(self) -> Path:
        """Wait until the file is whole, and give its path for now: it can be read there.

        Raises:
            ResourceError: The disk is full or the folder cannot be written to.
        """
        with _told(self._path):
            self._written.result()
        return self._made

    def publish(self) -> None:
        """Put the file in its place, once it is whole on the disk.

        Raises:
            UsageError: There is a file by now, and it is not to be replaced.
            ResourceError: The disk is full or the folder cannot be written to.
        """
        with _told(self._path):
            self._written.result()
            self._put()
            _sync_folder(self._path.parent)

    def _put(self) -> None:
        # A file that its owner alone may read is not opened to others by being replaced.
        self._made.chmod(self._path.stat().st_mode & 0o777 if self._path.exists() else self._workplace.mode)
        if self._overwrite:
            self._made.replace(self._path)
            return
        try:
            # A link is refused where a file has come to be meanwhile, in one step; renaming would replace it.
            os.link(self._made, self._path)
        except FileExistsError:
            raise
        except OSError:
            # A file system without links.
            if self._path.exists():
                raise FileExistsError from None
            self._made.replace(self._path)


class PendingFolder(PendingFile):
    """A folder of files that is being written while it is still being judged; see `PendingFile`.

    Nothing in a folder that exists is ever removed: it must be empty or, with `overwrite`, hold such files alone.
    """

    own: Collection[str] = ("model.safetensors", "config.json")

    def _put(self) -> None:
        mode = self._workplace.mode
        for file in self._made.iterdir():
            file.chmod(mode)
        # Whoever may read the files may enter the folder.
        self._made.chmod(mode | (mode & 0o444) >> 2)
        if self._overwrite and self._path.is_dir():
            for name in self.own:
                (self._made / name).replace(self._path / name)
            return
        # Refused where somebody has put something there meanwhile.
        self._made.replace(self._path)


class PendingOutput(PendingFile):
    """A checkpoint that is being written while it is still being judged.

    Args:
        path: Where it is to be.
        tensors: Tensors by key; not to be changed until the end.
        header: Gives what to say of the file; called in the writing thread.
        overwrite: Replace a file that exists.

    Raises:
        UsageError: See `check_output`; or another process is writing it.
        ResourceError: The folder cannot be written to, or there is too little room.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], header: Header, *, overwrite: bool) -> None:
        check_output(path, overwrite=overwrite)
        check_space(path, tensors)
        super().__init__(path, lambda made: serialise(made, tensors, header), overwrite=overwrite)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What goes wrong in writing, as errors of ours."""
    try:
        yield
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise _exists(path) from error
        raise ResourceError("the output cannot be written", where=str(path), why=str(error)) from error
    except (RuntimeError, UnicodeError, SafetensorError) as error:
        # torch.save reports a full disk as a RuntimeError, safetensors a name that is no text as a UnicodeError.
        raise ResourceError("the output cannot be written", where=str(path), why=str(error)) from error


def _exists(path: Path) -> UsageError:
    remedy = "choose another name" if path.is_dir() else "choose another name, or pass --overwrite"
    return UsageError("the output exists", where=str(path), remedy=remedy)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
