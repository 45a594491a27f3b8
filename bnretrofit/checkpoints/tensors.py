"""Which tensors a checkpoint may hold: judged by their description first, then by their values."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from bnretrofit.checkpoints.bounds import SHARING, TENSORS
from bnretrofit.checkpoints.stand_ins import SavedTensor
from bnretrofit.errors import InputRejectedError

__all__ = ["DTYPES", "check_outlines", "check_size", "check_values"]

DTYPES = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    }
)
"""Networks compute in the first four; the others are counters and indices beside them."""

LARGEST = torch.finfo(torch.float32).max


def check_outlines(state: Mapping[Any, Any], size: int, where: str) -> None:
    """Judge what a pickle says of the tensors that are wanted, before any of them is read.

    Args:
        state: The state_dict, with `SavedTensor` in place of tensors.
        size: Of the file, in bytes.
        where: The file.

    Raises:
        InputRejectedError: One is not a plain tensor, or larger than what is stored of it.
    """
    if len(state) > TENSORS:
        raise InputRejectedError(f"the checkpoint holds {len(state)} tensors", where=where, why="too many to open")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, SavedTensor):
            kind = "a dictionary" if isinstance(tensor, Mapping) else f"a {type(tensor).__name__.strip('_')}"
            raise InputRejectedError(
                "the checkpoint is no state_dict",
                where=where,
                why=f"'{name}' is no tensor but {kind}",
                remedy="pass --state-dict-key if the weights are deeper in it, or save model.state_dict()",
            )
        if (problem := tensor.problem or _problem(tensor)) is not None:
            raise InputRejectedError(f"the tensor '{name}' is {problem}", where=where)
    plain = [(found.storage.dtype, found.shape) for found in state.values() if found.storage is not None]
    check_size(plain, size, where)


def _problem(tensor: SavedTensor) -> str | None:
    if tensor.storage is None or tensor.storage.dtype not in DTYPES:
        dtype = "" if tensor.storage is None else f" {str(tensor.storage.dtype).removeprefix('torch.')}"
        return f"of the dtype{dtype}, in which no network here computes"
    if len(tensor.shape) > 16:
        return f"one of {len(tensor.shape)} dimensions"
    numel = math.prod(tensor.shape)
    if numel > tensor.storage.numel:
        return "expanded from fewer values than it has; save it after .contiguous()"
    return None


def check_size(tensors: Iterable[tuple[torch.dtype, tuple[int, ...]]], size: int, where: str) -> None:
    """Look whether a file's tensors can be held together.

    Raises:
        InputRejectedError: They take far more than the file.
    """
    taken = sum(math.prod(shape) * dtype.itemsize for dtype, shape in tensors)
    if taken > SHARING * size:
        why = f"they take {taken} bytes, the file {size}"
        raise InputRejectedError("the checkpoint's tensors share memory far beyond tied weights", where=where, why=why)


def check_values(name: str, tensor: Tensor, where: str) -> None:
    """Judge a tensor as it was read.

    Raises:
        InputRejectedError: It holds NaN or infinity, or would once it is float32.
    """
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.dtype not in DTYPES:
        raise InputRejectedError(f"the tensor '{name}' is no plain tensor of a known dtype", where=where)
    if not tensor.dtype.is_floating_point or not tensor.numel():
        return
    # aminmax makes no copy and hands on NaN; isfinite would make a bool tensor as long as the weights.
    low, high = torch.aminmax(tensor.detach())
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        raise InputRejectedError(
            f"the tensor '{name}' holds NaN or infinity",
            where=where,
            remedy="use an earlier checkpoint of the training",
        )
    if max(abs(float(low)), abs(float(high))) > LARGEST:
        raise InputRejectedError(
            f"the tensor '{name}' holds values beyond float32", where=where, why=f"they reach {float(high):.3g}"
        )
