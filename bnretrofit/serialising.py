"""Tensors -> a file: safetensors with what is to be said of it, or a plain state_dict of torch.save."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bnretrofit.checkpoints import DIGEST_KEY, HEADER_KEY, ROOM, own_digest, sealed, stamped, tensors_header

__all__ = ["SUFFIXES", "Header", "serialise"]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

UNSTAMPED = "?" * 64
"""Stands in the header until the digest is known: nothing else in it is like it."""

Header = Callable[[], Mapping[str, Any] | None]


def serialise(path: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    """Write a file in the format that its name says, down to the disk.

    Args:
        path: The file, replaced if it exists; the same content gives the same bytes.
        tensors: Tensors by key.
        header: Gives what to say of it, as a JSON document; of safetensors only.
    """
    (_safetensors if path.suffix == ".safetensors" else _pickle)(path, tensors, header)
    # For writing: some systems sync nothing through a file that was opened to be read.
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _safetensors(path: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    document = header()
    # One entry only: safetensors writes several in an order of its own, and the same input is to give the same bytes.
    metadata = {"format": "pt"}
    if document is not None:
        metadata = {HEADER_KEY: json.dumps({**document, DIGEST_KEY: UNSTAMPED}, sort_keys=True) + ROOM.decode()}
    save_file(_separate(tensors), path, metadata=metadata)
    if document is not None:
        _seal(path)
        _stamp(path)


def _seal(path: Path) -> None:
    with path.open("r+b") as file:
        length = file.read(8)
        raw = length + file.read(int.from_bytes(length, "little"))
        file.seek(0)
        file.write(sealed(raw))


def _stamp(path: Path) -> None:
    """Let a file bear its own digest."""
    header = tensors_header(path)
    digest = own_digest(path, header)
    with path.open("r+b") as file:
        file.write(stamped(header.raw, UNSTAMPED, digest))


def _pickle(path: Path, tensors: Mapping[str, Tensor], _header: Header) -> None:
    # Into an open file: given a path, torch would write its name into the archive.
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
