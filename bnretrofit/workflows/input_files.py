"""Inputs on which two models parted, in a file: written by one verification, run again by the next."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from bnretrofit.checkpoints import read
from bnretrofit.errors import InputRejectedError
from bnretrofit.publishing import check_output, write

__all__ = ["Kept", "read_inputs"]


class Kept:
    """The inputs that a verification is to keep, and the file for them.

    Args:
        path: Safetensors, with each input under its kind.
        overwrite: Replace a file that exists.
        inputs: What is read, and not to be replaced.

    Attributes:
        worst: See `verification.Checks`.

    Raises:
        RetrofitError: The file exists, is an input, or cannot be written.
    """

    def __init__(self, path: Path, *, overwrite: bool, inputs: Iterable[Path | None] = ()) -> None:
        check_output(path, overwrite=overwrite, inputs=inputs)
        self.worst: dict[str, Tensor] = {}
        self._path, self._overwrite = path, overwrite

    def write(self) -> bool:
        """Write what was kept; False where there was nothing."""
        if self.worst:
            write(self._path, self.worst, None, overwrite=self._overwrite)
        return bool(self.worst)


def read_inputs(path: Path) -> list[Tensor]:
    """The inputs of a file, a batch for each.

    Raises:
        InputRejectedError: The file is none of safetensors, or holds no inputs.
    """
    tensors = read(path).tensors
    if not tensors or not all(tensor.dim() and tensor.is_floating_point() for tensor in tensors.values()):
        raise InputRejectedError("the file holds no inputs", where=str(path), remedy="pass one of --save-inputs")
    return list(tensors.values())
