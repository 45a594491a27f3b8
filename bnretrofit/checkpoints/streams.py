"""A file as torch.save wrote it before 1.6: five pickles, then the tensors' data, one storage after the other."""

import struct
from pathlib import Path
from typing import Any

from bnretrofit.checkpoints.bounds import PICKLE_BYTES
from bnretrofit.checkpoints.outlines import Outline, outline_of
from bnretrofit.checkpoints.stand_ins import Refused, StoredBytes

__all__ = ["stream_outline"]

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
LENGTH = struct.Struct("<q")


def stream_outline(path: Path) -> Outline:
    """The outline of such a file, once its length is what its storages make together.

    Raises:
        Refused: It is no such file, or not as long as it says.
        Exception: Whatever Python raises on a damaged pickle.
    """
    with path.open("rb") as file:
        data = file.read(PICKLE_BYTES)
    outlines, position = [], 0
    for _ in range(5):
        outlines.append(outline_of(data, position))
        position = outlines[-1].end
        if len(outlines) == 1 and outlines[0].content != MAGIC:
            raise Refused("it is a pickle, but not one of torch.save")
    _, protocol, system, content, keys = outlines
    if protocol.content != PROTOCOL or not isinstance(system.content, dict) or not isinstance(keys.content, list):
        raise Refused("it is not laid out as torch.save lays out a file")
    if system.content.get("little_endian") is not True:
        raise Refused("it was written on a big-endian machine")
    _check_storages(path, position, content.storages, keys.content)
    return content


def _check_storages(path: Path, position: int, storages: list[StoredBytes], keys: list[Any]) -> None:
    """Walk over the data: each storage has its length before it, and the last ends with the file."""
    named = {found.key: found for found in storages}
    if len(set(map(str, keys))) != len(keys) or set(keys) != set(named):
        raise Refused("the storages it lists are not those it names")
    if any(found.numel != named[found.key].numel or found.dtype != named[found.key].dtype for found in storages):
        raise Refused("it gives one storage two lengths or dtypes")
    size = path.stat().st_size
    with path.open("rb") as file:
        for key in keys:
            file.seek(position)
            start = file.read(LENGTH.size)
            if len(start) < LENGTH.size or LENGTH.unpack(start)[0] != named[key].numel:
                raise Refused("it is cut short or damaged: a storage has another length than its pickle says")
            position += LENGTH.size + named[key].numel * named[key].dtype.itemsize
            if position > size:
                raise Refused("it is cut short")
    if position != size:
        raise Refused(f"{size - position} bytes stand after its last storage")
