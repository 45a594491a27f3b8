"""What a model is called with: a tensor, a tuple of positional inputs or a dict of keyword ones."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bnretrofit.errors import InputRejectedError, UsageError

__all__ = [
    "Batch",
    "as_call",
    "checked_device",
    "describe",
    "device_of",
    "doubled",
    "dtype_of",
    "example_from",
    "map_tensors",
    "sample_count",
    "split",
    "taken",
]

Batch = Any
"""A tensor, a tuple (or list) of positional inputs, or a dict of keyword inputs."""


def as_call(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the model's call for one batch.

    Args:
        batch: A tensor, a tuple or list of positional inputs, or a dict of keyword inputs.

    Returns:
        `(args, kwargs)` for `model(*args, **kwargs)`.
    """
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, (tuple, list)):
        return tuple(batch), {}
    return (batch,), {}


def map_tensors(change: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
    """The same batch with `change` applied to every tensor in it."""
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, batch)


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first tensor; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def checked_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        UsageError: There is no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).strip().splitlines()[0]
        raise UsageError(
            f"there is no device '{name}' here", why=why, remedy="bnretrofit env lists the devices"
        ) from error
    return device


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype of the model's first floating-point parameter; float32 for a model without any."""
    return next((tensor.dtype for tensor in model.parameters() if tensor.dtype.is_floating_point), torch.float32)


def sample_count(batch: Batch) -> int:
    """Number of samples in a batch: the leading size of its first tensor, 1 for a scalar."""
    first = next((leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)), None)
    return 1 if first is None or not first.dim() else first.shape[0]


def split(batch: Tensor, most: int) -> list[Tensor]:
    """A batch as batches of at most that many samples, in order."""
    return [batch[start : start + most] for start in range(0, len(batch), most)]


def doubled(batch: Batch) -> Batch:
    """A batch of one made a batch of two, since batch statistics of one value do not exist."""
    return map_tensors(
        lambda tensor: torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[0] == 1 else tensor, batch
    )


def taken(batches: Iterable[Batch], what: str) -> Iterator[Batch]:
    """The batches, refusing an empty sequence.

    Raises:
        InputRejectedError: There is no batch.
    """
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        raise InputRejectedError(
            f"no batch to {what} with", why="the sequence of batches is empty", remedy="pass at least one batch"
        )


def describe(batch: Batch) -> Any:
    """A JSON document from which `example_from` makes inputs of the same shapes and dtypes.

    Raises:
        InputRejectedError: A leaf is neither a tensor nor a JSON constant.
    """
    if isinstance(batch, Tensor):
        return {"tensor": list(batch.shape), "dtype": str(batch.dtype).removeprefix("torch.")}
    if isinstance(batch, Mapping):
        return {"dict": {str(key): describe(value) for key, value in batch.items()}}
    if isinstance(batch, (tuple, list)):
        return {"tuple": [describe(value) for value in batch]}
    if batch is None or isinstance(batch, (bool, int, float, str)):
        return {"value": batch}
    raise InputRejectedError(
        "the example input cannot be recorded",
        why=f"it holds a {type(batch).__name__}",
        remedy="pass tensors, numbers, strings, and tuples or dicts of them",
    )


def example_from(description: Any, device: torch.device | str) -> Batch:
    """Inputs of zeros with the shapes and dtypes that `describe` recorded."""
    if "tensor" in description:
        return torch.zeros(description["tensor"], dtype=getattr(torch, description["dtype"]), device=device)
    if "dict" in description:
        return {key: example_from(value, device) for key, value in description["dict"].items()}
    if "tuple" in description:
        return tuple(example_from(value, device) for value in description["tuple"])
    return description["value"]
