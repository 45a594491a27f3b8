"""An exported file in a fresh process, as somebody else would open it: `python -m bnretrofit.workflows.replaying`."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bnretrofit.errors import InputRejectedError
from bnretrofit.trials.alignment import align

__all__ = ["How", "replay"]


@dataclass(frozen=True, slots=True)
class How:
    """How a file is opened.

    Attributes:
        format: "onnx", "pt2", "local-dir" or "checkpoint".
        model: The model's name, for a checkpoint.
        num_classes: Of the model, where not the library's.
        trust_code: Permit running a Python file for it.
        submodule: The part of it that is run; empty for all.
        threads: That torch computes with.
        compiled: Let torch.compile have the model first.
    """

    format: str
    model: str | None = None
    num_classes: int | None = None
    trust_code: bool = False
    submodule: str = ""
    threads: int = 1
    compiled: bool = False


def replay(path: Path, how: How, inputs: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """Run a file in a fresh process.

    Args:
        path: The file.
        how: How it is opened.
        inputs: Batches by name.

    Returns:
        For each name what the model returns.

    Raises:
        InputRejectedError: The file cannot be opened, or does not take the inputs.
    """
    with tempfile.TemporaryDirectory(prefix="bnretrofit-replay-") as folder:
        given, found = Path(folder) / "inputs.safetensors", Path(folder) / "outputs.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, given)
        command = [sys.executable, "-m", __name__, str(path), json.dumps(asdict(how)), str(given), str(found)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
        if done.returncode != 0 or not found.is_file():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise InputRejectedError(
                "the exported file cannot be run in a process of its own",
                where=path.name,
                why=lines[-1] if lines else f"it ended with {done.returncode}",
            )
        outputs = load_file(found)
    names = {name: [key for key in outputs if key.rpartition(" ")[0] == name] for name in inputs}
    return {name: [outputs[f"{name} {number}"] for number in range(len(keys))] for name, keys in names.items()}


def opened(path: Path, how: How) -> Any:
    """The file's model."""
    if how.format == "onnx":
        from bnretrofit.exporting.onnx_files import OnnxModel

        return OnnxModel(path)
    if how.format == "pt2":
        from bnretrofit.exporting.programs import load_program

        return load_program(path)
    if how.format == "local-dir":
        from bnretrofit.exporting.timm_folders import open_timm_folder

        return open_timm_folder(path)
    from bnretrofit.workflows.opening import ModelChoice, open_model

    choice = ModelChoice(how.model, None, how.num_classes, how.trust_code, submodule=how.submodule)
    return open_model(path, choice).model


def main(path: str, how: str, given: str, found: str) -> None:
    """Open the file, run every batch, and write what comes of it."""
    chosen = How(**json.loads(how))
    torch.set_num_threads(chosen.threads)
    model = opened(Path(path), chosen)
    align((model,))
    run = torch.compile(model) if chosen.compiled else model
    outputs = {}
    with torch.no_grad():
        for name, batch in load_file(given).items():
            for number, leaf in enumerate(tree_leaves(run(batch))):
                outputs[f"{name} {number}"] = leaf.detach().contiguous().clone()
    save_file(outputs, found)


if __name__ == "__main__":
    main(*sys.argv[1:])
