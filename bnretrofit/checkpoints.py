"""Checkpoint files in: read without running anything from them."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bnretrofit.errors import InputRejectedError

__all__ = ["HEADER_KEY", "Checkpoint", "read", "read_header"]

HEADER_KEY = "bnretrofit"
DIGEST_BYTES = 1 << 24
WRAPPERS = ("state_dict", "model", "model_state_dict")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as it was read.

    Attributes:
        path: The file.
        tensors: Its tensors by key.
        header: What bnretrofit wrote about it; None for a file from elsewhere.
        digest: Its sha256, being computed while the file is put to use.
        notes: What was taken from the file and what was left, if that was not all of it.
    """

    path: Path
    tensors: dict[str, Tensor]
    header: dict[str, Any] | None
    digest: "Future[str]"
    notes: tuple[str, ...] = ()


def read(path: Path) -> Checkpoint:
    """Read a checkpoint: .safetensors, or a state_dict saved by torch.save, told apart by content.

    Pickles are read with `weights_only`: nothing in a file is run.

    Args:
        path: The file.

    Returns:
        Its tensors, on the CPU; safetensors are mapped into memory rather than copied.

    Raises:
        InputRejectedError: The file is missing, damaged, of another kind, or holds values that are not finite.
    """
    tensors, header, notes = _read_safetensors(path) if _kind_of(path) == "safetensors" else _read_pickle(path)
    for name, tensor in tensors.items():
        _check_tensor(path, name, tensor)
    return Checkpoint(path, tensors, header, _digest(path), notes)


def read_header(path: Path) -> dict[str, Any] | None:
    """What bnretrofit wrote about a file, without reading its tensors; None for a file from elsewhere.

    Raises:
        InputRejectedError: The file is missing or damaged.
    """
    if _kind_of(path) != "safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return _parsed_header(path, file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputRejectedError("the safetensors file is damaged", where=str(path), why=str(error)) from error


def _kind_of(path: Path) -> str:
    """Tell "safetensors" from "pickle" by a file's first bytes."""
    if not path.is_file():
        why = "it is a folder" if path.is_dir() else "there is no such file"
        raise InputRejectedError("the checkpoint cannot be read", where=str(path), why=why)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputRejectedError("the checkpoint cannot be read", where=str(path), why=error.strerror) from error
    # Eight bytes of length, below 100 MB. The low ones may be those of a pickle (1152 is 80 04), so this goes first.
    if start[4:] == b"\0\0\0\0{":
        return "safetensors"
    # A zip archive, or a bare pickle of protocol 2 or above, as torch wrote before 1.6.
    if start.startswith((b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "pickle"
    raise InputRejectedError(
        "the checkpoint is neither safetensors nor a file of torch.save",
        where=str(path),
        why="it is empty" if not start else "its first bytes are those of neither",
        remedy="it may be damaged, cut short, or of another format",
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None, tuple[str, ...]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputRejectedError("the safetensors file is damaged", where=str(path), why=str(error)) from error
    return tensors, _parsed_header(path, metadata), ()


def _parsed_header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    if HEADER_KEY not in metadata:
        return None
    try:
        header = json.loads(metadata[HEADER_KEY])
    except ValueError as error:
        raise InputRejectedError("the file's bnretrofit header is damaged", where=str(path), why=str(error)) from error
    if not isinstance(header, dict):
        raise InputRejectedError("the file's bnretrofit header is damaged", where=str(path), why="it is no JSON object")
    return header


def _read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None, tuple[str, ...]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputRejectedError(
            "the checkpoint cannot be read",
            where=str(path),
            why=_pickle_fault(error),
            remedy="nothing but tensors is ever loaded; save model.state_dict() where the file was made",
        ) from error
    notes: tuple[str, ...] = ()
    wrapper = next(
        (key for key in WRAPPERS if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)), None
    )
    if wrapper is not None:
        content, notes = content[wrapper], (f"took the tensors under '{wrapper}' of {path.name}",)
    if not isinstance(content, Mapping):
        raise InputRejectedError(
            "the checkpoint is no state_dict", where=str(path), why=f"it holds a {type(content).__name__}"
        )
    if wrong := [key for key, value in content.items() if not isinstance(value, Tensor)]:
        raise InputRejectedError(
            "the checkpoint is no state_dict",
            where=str(path),
            why=f"'{wrong[0]}' is a {type(content[wrong[0]]).__name__}",
        )
    return {str(name): tensor for name, tensor in content.items()}, None, notes


def _pickle_fault(error: Exception) -> str:
    # torch's own message goes on to advise loading the file without weights_only: that advice is not handed on.
    if isinstance(error, pickle.UnpicklingError):
        return "it holds more than tensors, or is damaged"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.dtype.is_complex:
        raise InputRejectedError(f"the tensor '{name}' is sparse, quantised or complex", where=str(path))
    if not tensor.dtype.is_floating_point or not tensor.numel():
        return
    # aminmax makes no copy and hands on NaN; isfinite would make a bool tensor as long as the weights.
    low, high = torch.aminmax(tensor.detach() if tensor.itemsize > 1 else tensor.detach().float())
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        raise InputRejectedError(
            f"the tensor '{name}' holds NaN or infinity",
            where=str(path),
            remedy="use an earlier checkpoint of the training",
        )


def _digest(path: Path) -> "Future[str]":
    def digest() -> str:
        # In larger pieces than file_digest's: after each one the thread waits for the interpreter, up to 5 ms.
        found, buffer = hashlib.sha256(), memoryview(bytearray(DIGEST_BYTES))
        with path.open("rb", buffering=0) as file:
            while size := file.readinto(buffer):
                found.update(buffer[:size])
        return found.hexdigest()

    # In a thread: hashing releases the interpreter, and takes as long as all else that is done with a large file.
    executor = ThreadPoolExecutor(1)
    future = executor.submit(digest)
    executor.shutdown(wait=False)
    return future
