"""Checkpoint files out: written whole or not at all."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from bnretrofit.checkpoints import HEADER_KEY
from bnretrofit.errors import ResourceError, UsageError

__all__ = ["PendingOutput", "check_output", "write"]

SUFFIXES = (".safetensors", ".pth", ".pt")

Header = Callable[[], Mapping[str, Any] | None]


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Raises:
        UsageError: It exists and `overwrite` is False, its folder does not exist, or its name says no known format.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"the output's format is not known by its name '{path.name}'", remedy="name it .safetensors or .pth"
        )
    if not path.parent.is_dir():
        raise UsageError("the output's folder does not exist", where=str(path.parent), remedy="make the folder first")
    try:
        taken = path.is_dir() or (path.exists() and not overwrite)
    except OSError as error:
        raise UsageError("the output cannot have that name", where=str(path), why=error.strerror) from error
    if taken:
        raise UsageError("the output exists", where=str(path), remedy="choose another name, or pass --overwrite")


def write(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any] | None, *, overwrite: bool = False
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: `.safetensors` holds the header too; `.pth` is a plain state_dict.
        tensors: Tensors by key.
        header: What to say of the file, as a JSON document.
        overwrite: Replace a file that exists; it is kept until the new one is whole.

    Raises:
        UsageError: See `check_output`.
        ResourceError: The disk is full or the folder cannot be written to.
    """
    with PendingOutput(path, tensors, lambda: header, overwrite=overwrite) as output:
        output.publish()


class PendingOutput:
    """A checkpoint that is being written to a temporary file while its content is still being judged.

    Writing a large file takes as long as verifying it, and neither holds the interpreter: so they go on side by side.
    Leaving the context without `publish` leaves nothing behind.

    Args:
        path: Where it is to be.
        tensors: Tensors by key; not to be changed until the end.
        header: Gives what to say of the file; called in the writing thread.
        overwrite: Replace a file that exists.

    Raises:
        UsageError: See `check_output`.
        ResourceError: The folder cannot be written to.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], header: Header, *, overwrite: bool) -> None:
        check_output(path, overwrite=overwrite)
        self._path = path
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        except OSError as error:
            raise _unwritable(path, error) from error
        os.close(handle)
        self._temporary = Path(name)
        write_to = _write_safetensors if path.suffix == ".safetensors" else _write_pickle
        self._executor = ThreadPoolExecutor(1)
        self._written = self._executor.submit(write_to, self._temporary, tensors, header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._executor.shutdown(wait=True, cancel_futures=True)
        finally:
            # A second Ctrl-C ends the waiting, not the sweeping: the writer then goes on in a file without a name.
            self._temporary.unlink(missing_ok=True)

    def publish(self) -> None:
        """Put the file in its place, once it is whole on the disk.

        Raises:
            ResourceError: The disk is full or the folder cannot be written to.
        """
        try:
            self._written.result()
            self._temporary.chmod(0o666 & ~_umask())
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
            self._temporary.replace(self._path)
            _sync_folder(self._path.parent)
        except (OSError, RuntimeError, SafetensorError) as error:
            # torch.save reports a full disk as a RuntimeError.
            raise _unwritable(self._path, error) from error


def _unwritable(path: Path, error: Exception) -> ResourceError:
    return ResourceError("the output cannot be written", where=str(path), why=str(error))


def _write_safetensors(path: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    # One entry only: safetensors writes several in an order of its own, and the same input is to give the same bytes.
    document = header()
    metadata = {"format": "pt"} if document is None else {HEADER_KEY: json.dumps(document, sort_keys=True)}
    save_file(_separate(tensors), path, metadata=metadata)


def _write_pickle(path: Path, tensors: Mapping[str, Tensor], _header: Header) -> None:
    # Into an open file: given a path, torch would write the temporary's random name into the archive.
    with path.open("wb") as file:
        torch.save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, file)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # A tied tensor stands in the file under each of its names, as strict loading asks; so do views that overlap.
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    reached = 0
    for name in sorted(plain, key=lambda name: plain[name].data_ptr()):
        start, size = plain[name].data_ptr(), plain[name].nbytes
        if size and start < reached:
            plain[name] = plain[name].clone()
        else:
            reached = max(reached, start + size)
    return plain


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
