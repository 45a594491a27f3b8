"""What one fresh process does for `benchmarks.fold`: imports, then one contender under the clock."""

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.fold_phases import FINISH, READ, WAIT, WRITE, Phases
from benchmarks.measuring import peak_memory, resident, timed

__all__ = ["CONTENDERS", "FLOOR", "child"]

FLOOR, FOLD, WARM = "unavoidable", "fold_checkpoint", "fold_checkpoint, export warmed"
CONTENDERS = (FLOOR, FOLD, WARM)


def child(name: str, model: str, folder: Path) -> dict[str, Any]:
    """One contender in this process: its seconds, its phases, and the memory before and at the most."""
    import safetensors.torch  # noqa: F401 - the imports of both contenders come before the clock
    import timm.data  # noqa: F401
    import torchvision  # noqa: F401

    import bnretrofit.workflows.folding  # noqa: F401

    if name == WARM:
        torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),), strict=False)
    phases = Phases()
    source, output = folder / "source.safetensors", folder / "output.safetensors"
    before, peak_before = resident(), peak_memory()
    if name == FLOOR:
        seconds = timed(lambda: unavoidable(source, output, phases))
    else:
        phases.watch()
        seconds = timed(lambda: fold_file(source, output, model))
    return {
        "seconds": seconds,
        "phases": phases.seconds,
        "before": before,
        "peak_before": peak_before,
        "peak": peak_memory(),
    }


def unavoidable(source: Path, output: Path, phases: Phases) -> None:
    """Read, digest, check and write the same tensors: the digest in a thread, as fold_checkpoint has it."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    digest: list[str] = []

    def compute_digest() -> None:
        with source.open("rb") as file:
            digest.append(hashlib.file_digest(file, "sha256").hexdigest())

    thread = threading.Thread(target=compute_digest)
    thread.start()
    with phases.of(READ):
        with safe_open(source, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not all(bool(value.isfinite()) for value in torch.aminmax(tensor)):
                raise ValueError(name)
    with phases.of(WAIT):
        thread.join()
    temporary = output.with_suffix(".part")
    with phases.of(WRITE):
        save_file(tensors, temporary, metadata={"format": "pt", "source": digest[0]})
    with phases.of(FINISH):
        for path in (temporary, output.parent):
            if path is not temporary:
                temporary.replace(output)
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def fold_file(source: Path, output: Path, model: str) -> None:
    from bnretrofit.workflows.folding import FoldChoice, fold_checkpoint
    from bnretrofit.workflows.images import ImageChoice
    from bnretrofit.workflows.opening import ModelChoice

    twin = f"torchvision:{model.removesuffix('_bn')}"
    fold_checkpoint(source, ModelChoice(f"torchvision:{model}"), ImageChoice(None), output, FoldChoice(like=twin))
