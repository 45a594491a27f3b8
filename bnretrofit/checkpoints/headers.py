"""The header of a safetensors file, read and judged without its tensors."""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bnretrofit.checkpoints.bounds import HEADER_BYTES, TENSORS
from bnretrofit.checkpoints.kinds import kind_of_file
from bnretrofit.checkpoints.places import place_of
from bnretrofit.errors import InputRejectedError

__all__ = ["DIGEST_KEY", "HEADER_KEY", "SEAL", "TensorsHeader", "read_header", "tensors_header"]

HEADER_KEY = "bnretrofit"
DIGEST_KEY = "digest"
SEAL = b" " * 64
"""Ends the header of a file of ours. Whoever loads its tensors, trains them and saves them with the same metadata has
the old digest in it, but not these blanks: then the digest is out of date, and the file is not damaged."""
NO_NETWORK = "no network here computes in it"
LENGTH = struct.Struct("<Q")
NAMES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}


@dataclass(frozen=True, slots=True)
class TensorsHeader:
    """What a safetensors file says of itself.

    Attributes:
        tensors: Dtype and shape of each tensor, by key.
        metadata: Its own words on it.
        written: What bnretrofit wrote about it, without the digest; None for a file from elsewhere.
        digest: The digest that it bears; None if it bears none, or was saved again by another tool since.
        resaved: Whether it was.
        raw: The bytes up to the first tensor.
    """

    tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    metadata: Mapping[str, str]
    written: dict[str, Any] | None
    digest: str | None
    resaved: bool
    raw: bytes


def read_header(path: Path) -> dict[str, Any] | None:
    """What bnretrofit wrote about a file, without reading its tensors; None for a file from elsewhere.

    Raises:
        InputRejectedError: The file is missing or damaged.
    """
    files = place_of(path).files
    if len(files) > 1 or kind_of_file(files[0]) != "safetensors":
        return None
    return tensors_header(files[0]).written


def tensors_header(path: Path) -> TensorsHeader:
    """Read and judge a header: every byte after it belongs to one tensor, and to one alone.

    Raises:
        InputRejectedError: It is damaged, or says what cannot be.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = LENGTH.unpack(file.read(LENGTH.size))
            if length > min(HEADER_BYTES, size - LENGTH.size):
                raise ValueError(f"its header is to take {length} bytes, of a file of {size}")
            text = file.read(length)
        document = json.loads(text.decode(), object_pairs_hook=_without_repetition)
        if not isinstance(document, dict):
            raise TypeError("its header is no JSON object")
        metadata = document.pop("__metadata__", None) or {}
        tensors = _tensors(document, size - LENGTH.size - length, str(path))
        written, digest = _written(metadata)
        sealed = text.endswith(SEAL)
        if sealed and digest is None:
            raise ValueError("it is sealed as bnretrofit seals its files, and its digest is gone")
    except (OSError, ValueError, TypeError, KeyError, RecursionError, struct.error, OverflowError) as error:
        raise InputRejectedError(
            "the safetensors file is damaged",
            where=str(path),
            why=str(error) or type(error).__name__,
            remedy="fetch it again; it may have been cut short",
        ) from error
    resaved = digest is not None and not sealed
    return TensorsHeader(tensors, metadata, written, digest if sealed else None, resaved, LENGTH.pack(length) + text)


def _tensors(document: dict[str, Any], room: int, where: str) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    if len(document) > TENSORS:
        raise ValueError(f"it is to hold {len(document)} tensors")
    found, spans = {}, []
    for name, entry in document.items():
        shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
        if not all(type(number) is int and 0 <= number < 1 << 62 for number in (*shape, start, end)):
            raise ValueError(f"the tensor '{name}' has a size that cannot be")
        dtype = NAMES.get(entry["dtype"])
        if dtype is None:
            raise InputRejectedError(
                f"the tensor '{name}' is of the dtype {entry['dtype']}", where=where, why=NO_NETWORK
            )
        if end - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"the tensor '{name}' has another size than its shape")
        found[name] = dtype, shape
        spans.append((start, end))
    reached = 0
    for start, end in sorted(spans):
        if start != reached:
            raise ValueError("its tensors overlap, or leave bytes between them")
        reached = end
    if reached != room:
        raise ValueError(f"its tensors take {reached} bytes, and {room} are there")
    return found


def _written(metadata: Any) -> tuple[dict[str, Any] | None, str | None]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise TypeError("its metadata are no texts")
    if HEADER_KEY not in metadata:
        return None, None
    try:
        header = json.loads(metadata[HEADER_KEY])
    except ValueError as error:
        raise ValueError(f"its bnretrofit header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise TypeError("its bnretrofit header is damaged: it is no JSON object")
    digest = header.pop(DIGEST_KEY, None)
    if not (digest is None or isinstance(digest, str)):
        raise TypeError("its digest is no text")
    return header, digest


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header names something twice")
    return found
