"""A model as a program of torch.export, with a batch of any size."""

import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.copies import independent_copy
from bnretrofit.errors import InputRejectedError

__all__ = ["captured", "load_program", "save_program"]


def captured(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """Capture a model for any batch size.

    Args:
        model: In eval mode; it is left as it is.
        example: An input of it, of which only the shape and dtype matter.

    Raises:
        InputRejectedError: It cannot be exported, or not for any batch size.
    """
    # What export leaves in a model's caches stays in the copy. A batch of one would be taken for the only size.
    copy = independent_copy(model).eval()
    batch = example if len(example) > 1 else torch.cat([example, example])
    try:
        with warnings.catch_warnings(), torch.no_grad(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            return torch.export.export(copy, (batch,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise InputRejectedError(
            f"the {type(model).__name__} cannot be exported for batches of any size",
            why=f"{type(error).__name__}: {lines[0] if lines else ''}",
            remedy="check that forward does not branch on values or on the batch size",
        ) from error


def save_program(program: torch.export.ExportedProgram) -> Callable[[Path], None]:
    """What writes a program to a path."""
    return lambda path: torch.export.save(program, path)


def load_program(path: Path) -> Any:
    """The module of a .pt2 file.

    Raises:
        InputRejectedError: It is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(path).module()
    except Exception as error:
        why = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise InputRejectedError("torch.export cannot load the file", where=str(path), why=why) from error
