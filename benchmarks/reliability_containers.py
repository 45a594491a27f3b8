"""Where an object stands in a checkpoint: five ways of handing a payload over."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.reliability_bases import network, saved
from benchmarks.reliability_bombs import KEY
from benchmarks.reliability_opcodes import begun, text
from benchmarks.reliability_zips import members, packed

__all__ = ["CONTAINERS", "DATA", "opened"]

DATA = 16384
"""Bytes of the one storage that there is."""

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def beside(body: bytes) -> bytes:
    """A dictionary with it."""
    return b"}" + text("weight") + body + b"s"


def archive(body: bytes) -> bytes:
    """A zip archive as torch.save writes it, with a pickle of any body."""
    own = {
        "archive/data.pkl": begun(body),
        "archive/byteorder": b"little",
        f"archive/data/{KEY}": bytes(DATA),
        "archive/version": b"3\n",
    }
    return packed(list(own.items()))


def zipped(folder: Path, body: bytes) -> Path:
    (folder / "model.pth").write_bytes(archive(beside(body)))
    return folder / "model.pth"


def streamed(folder: Path, body: bytes) -> Path:
    """Before 1.6: the object is the fourth of five pickles."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    before = [pickle.dumps(each, 2) for each in (MAGIC, PROTOCOL, system)]
    keys = b"](" + text(KEY) + b"e"
    content = [*before, begun(beside(body)), begun(keys), (DATA // 4).to_bytes(8, "little"), bytes(DATA)]
    (folder / "old.pth").write_bytes(b"".join(content))
    return folder / "old.pth"


def bare(folder: Path, body: bytes) -> Path:
    """Nothing but the pickle."""
    (folder / "model.pkl").write_bytes(begun(body))
    return folder / "model.pkl"


def trained(folder: Path, body: bytes) -> Path:
    """Good weights, and beside them in the training's dictionary the payload."""
    good = saved({"epoch": 3, "state_dict": network().state_dict()})
    content = dict(members(good))
    # Before its last two operations, which close the dictionary.
    whole = content["archive/data.pkl"]
    content[f"archive/data/{KEY}"] = bytes(DATA)
    content["archive/data.pkl"] = whole[:-2] + text("extra") + body + whole[-2:]
    (folder / "last.pth").write_bytes(packed(list(content.items())))
    return folder / "last.pth"


def sharded(folder: Path, body: bytes) -> Path:
    """One of two shards, named by an index."""
    (folder / "pytorch_model-1.bin").write_bytes(saved({"bias": torch.ones(2)}))
    (folder / "pytorch_model-2.bin").write_bytes(archive(beside(body)))
    names = {"bias": "pytorch_model-1.bin", "weight": "pytorch_model-2.bin"}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder / "pytorch_model.bin.index.json"


CONTAINERS: dict[str, Callable[[Path, bytes], Path]] = {
    "zip": zipped,
    "stream": streamed,
    "bare pickle": bare,
    "training": trained,
    "shard": sharded,
}


def opened(path: Path) -> None:
    """Open it as trusting readers do."""
    if path.suffix == ".pkl":
        pickle.loads(path.read_bytes())  # noqa: S301 - what this is for
        return
    for file in sorted(path.parent.glob("*.bin")) if path.suffix == ".json" else [path]:
        torch.load(io.BytesIO(file.read_bytes()), weights_only=False)
