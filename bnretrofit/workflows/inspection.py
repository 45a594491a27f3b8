"""What `bnretrofit inspect` does: tell what a file is, without building a model or running anything."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnretrofit.checkpoints import kind_of_file, place_of, read, tensors_header

__all__ = ["Inspected", "inspect_checkpoint"]

FORMATS = {
    "safetensors": "safetensors",
    "zip": "torch.save",
    "stream": "torch.save, as before torch 1.6",
}


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a file is.

    Attributes:
        path: The file; of a sharded checkpoint, its index.
        format: How it is written.
        size: Bytes, of all its files.
        sha256: Its digest, as `checkpoints.Checkpoint.digest` tells.
        tensors: Name, dtype and shape of each tensor.
        header: What bnretrofit wrote about it; None for a file from elsewhere.
        digest_checked: Whether it bears a digest of itself, which then was held against it.
        notes: What was taken from it and what was left.
    """

    path: Path
    format: str
    size: int
    sha256: str
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]
    header: dict[str, Any] | None
    digest_checked: bool
    notes: tuple[str, ...]
    values: int

    @property
    def dtypes(self) -> dict[str, int]:
        """How many tensors there are of each dtype."""
        return dict(Counter(dtype for _, dtype, _ in self.tensors))

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return {
            "path": str(self.path),
            "format": self.format,
            "size": self.size,
            "sha256": self.sha256,
            "tensors": [{"name": name, "dtype": dtype, "shape": list(shape)} for name, dtype, shape in self.tensors],
            "values": self.values,
            "header": self.header,
            "digest_checked": self.digest_checked,
            "notes": list(self.notes),
        }


def inspect_checkpoint(path: Path, *, state_dict_key: str | None = None, use_ema: bool = True) -> Inspected:
    """Read a checkpoint as every command does, and tell what it holds.

    Args:
        path: See `checkpoints.read`.
        state_dict_key: See `checkpoints.read`.
        use_ema: See `checkpoints.read`.

    Returns:
        What it is.

    Raises:
        RetrofitError: It is not admitted.
    """
    checkpoint = read(path, state_dict_key=state_dict_key, use_ema=use_ema)
    files = place_of(path).files
    kind = kind_of_file(files[0])
    single = kind == "safetensors" and len(files) == 1
    return Inspected(
        path=checkpoint.path,
        format=FORMATS[kind] if len(files) == 1 else f"{FORMATS[kind]}, in {len(files)} shards",
        size=sum(file.stat().st_size for file in files),
        sha256=checkpoint.digest.result(),
        tensors=tuple(
            (name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in checkpoint.tensors.items()
        ),
        header=checkpoint.header,
        digest_checked=single and tensors_header(files[0]).digest is not None,
        notes=checkpoint.notes,
        values=sum(tensor.numel() for tensor in checkpoint.tensors.values()),
    )
