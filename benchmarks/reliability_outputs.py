"""Two checkpoints that stand for an old and a new output, and a writer that takes no care."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.reliability_forks import alone
from bnretrofit import publishing

__all__ = ["SUFFIXES", "Output", "Writer", "naive", "output"]

SUFFIXES = (".safetensors", ".pth")


Writer = Callable[["Output", Path], None]


@dataclass(frozen=True, slots=True)
class Output:
    """A checkpoint to write, and the bytes that it is as a file."""

    suffix: str
    tensors: Mapping[str, Tensor]
    header: Mapping[str, str]
    whole: bytes = b""

    def publish(self, path: Path, *, overwrite: bool = True) -> None:
        """Write it as bnretrofit does."""
        publishing.write(path, self.tensors, self.header, overwrite=overwrite)


def output(folder: Path, suffix: str, value: float, elements: int, write: Writer = Output.publish) -> Output:
    """A checkpoint of this many elements, all of one value, written once to know its bytes."""
    tensors = {f"layer{number}.weight": torch.full((elements // 4,), value + number) for number in range(4)}
    found, path = Output(suffix, tensors, {"stage": "retrofitted", "value": str(value)}), folder / f"known{suffix}"
    # Not in this process: the writer has a thread of its own.
    if alone(lambda: write(found, path)):
        raise RuntimeError("an output could not be written at all")
    whole = path.read_bytes()
    path.unlink()
    return replace(found, whole=whole)


def naive(found: Output, path: Path) -> None:
    """Write it straight to where it is to be."""
    if found.suffix == ".safetensors":
        save_file(dict(found.tensors), path)
    else:
        with path.open("wb") as file:
            torch.save(dict(found.tensors), file)
    with path.open("r+b") as file:
        os.fsync(file.fileno())
