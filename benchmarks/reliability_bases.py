"""Small checkpoints of every kind that is read, each a few kilobytes: what is damaged by the thousand."""

import argparse
import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from benchmarks.reliability_opcodes import begun, pieces, text
from bnretrofit import publishing
from bnretrofit.checkpoints.outlines import outline_of

__all__ = ["Base", "bases", "same"]


@dataclass(frozen=True, slots=True)
class Base:
    """A checkpoint.

    Attributes:
        name: Of it.
        files: Its files, by name; the first is the one to read.
        tensors: What it holds.
    """

    name: str
    files: dict[str, bytes]
    tensors: Mapping[str, Tensor]


def bases() -> dict[str, Base]:
    """All of them, the same each time."""
    state = network().state_dict()
    tied = {"a.weight": state["0.weight"], "b.weight": state["0.weight"], "b.rows": state["0.weight"][1:, :1]}
    trained = {"epoch": 3, "args": argparse.Namespace(lr=0.1, model="small"), "state_dict": state}
    whole = {**trained, "optimizer": optimizer(), "amp": {"scale": 2.0, "seen": {1, 2}}}
    found = [
        Base("safetensors", {"model.safetensors": save(state, {"format": "pt"})}, state),
        Base("own safetensors", {"own.safetensors": published(state, ".safetensors")}, state),
        Base("own pth", {"own.pth": published(state, ".pth")}, state),
        Base("zip", {"model.pth": saved(state)}, state),
        Base("zip, tied", {"tied.pth": saved(tied)}, tied),
        Base("zip, training", {"last.pth": saved(whole)}, state),
        Base("stream", {"old.pth": saved(state, stream=True)}, state),
        Base("stream, tied", {"tied.pth": saved(tied, stream=True)}, tied),
        Base("stream, training", {"last.pth": saved(whole, stream=True)}, state),
        Base("shards, safetensors", sharded(state, "model-{}.safetensors", save), state),
        Base("shards, zip", sharded(state, "pytorch_model-{}.bin", saved), state),
    ]
    return {base.name: base for base in found}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3).half())


def optimizer() -> Any:
    model = network()
    steps = torch.optim.Adam(list(model[0].parameters()))  # type: ignore[index]
    loss = torch.stack([parameter.sum() for parameter in model[0].parameters()]).sum()  # type: ignore[index]
    loss.backward()
    steps.step()
    return steps.state_dict()


def saved(content: Any, *, stream: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not stream)
    return steadied(file.getvalue()) if stream else file.getvalue()


def steadied(data: bytes) -> bytes:
    """A file of five pickles with storages named in order, where torch names them by where they lay in memory."""
    ends = [0]
    for _ in range(5):
        ends.append(ends[-1] + sum(len(piece.raw) for piece in pieces(data[ends[-1] :])))
    sizes = {each.key: each.numel * each.dtype.itemsize for each in outline_of(data, ends[3]).storages}
    head, body, place, parts = data[: ends[3]], data[ends[3] : ends[4]], ends[5], {}
    for key in outline_of(data, ends[4]).content:
        parts[key] = data[place : place + 8 + sizes[key]]
        place += 8 + sizes[key]
    names = {key: str(10**13 + number) for number, key in enumerate(sizes)}
    for key, name in names.items():
        body = body.replace(text(key), text(name))
    keys = begun(b"](" + b"".join(map(text, names.values())) + b"e")
    return head + body + keys + b"".join(parts[key] for key in sizes)


def published(state: Mapping[str, Tensor], suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"own{suffix}"
        publishing.write(path, state, {"stage": "retrofitted", "plan": [{"site": "0", "channels": 4}]})
        return path.read_bytes()


def sharded(state: Mapping[str, Tensor], name: str, write: Any) -> dict[str, bytes]:
    names = sorted(state)
    parts = {name.format(1): names[::2], name.format(2): names[1::2]}
    index = {"metadata": {"total_size": 1}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    first = "model.safetensors.index.json" if "safetensors" in name else "pytorch_model.bin.index.json"
    shards = {file: write({key: state[key] for key in keys}) for file, keys in parts.items()}
    return {first: json.dumps(index).encode(), **shards}


def same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Names, dtypes, shapes and bits."""
    return found.keys() == wanted.keys() and all(
        found[name].dtype == tensor.dtype and found[name].shape == tensor.shape and bits(found[name]) == bits(tensor)
        for name, tensor in wanted.items()
    )


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
