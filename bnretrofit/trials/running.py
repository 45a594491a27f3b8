"""Two models and a batch -> both outputs, and how far they part."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bnretrofit.batches import Batch, as_call, device_of, dtype_of, map_tensors
from bnretrofit.differences import Differences
from bnretrofit.errors import InputRejectedError, RetrofitError
from bnretrofit.memory import is_out_of_memory

__all__ = ["Models", "Outputs", "add_outputs", "call", "input_for", "inputs_for", "outputs_of", "ranked", "taking"]

Models = tuple[nn.Module, nn.Module]
Outputs = tuple[list[Any], list[Any]]


def input_for(model: nn.Module, batch: Batch, dtype: torch.dtype | None) -> Batch:
    """A copy of a batch, on the model's device: a model may overwrite what it is given.

    Args:
        model: The model that is to have it.
        batch: The batch.
        dtype: What its floating-point tensors become; None leaves them.
    """

    def copied(tensor: Tensor) -> Tensor:
        wanted = dtype if dtype is not None and tensor.dtype.is_floating_point else tensor.dtype
        return tensor.to(device=device_of(model), dtype=wanted, copy=True)

    return map_tensors(copied, batch)


def call(model: nn.Module, batch: Batch) -> list[Any]:
    """The model's results on a batch, as a list.

    Raises:
        InputRejectedError: The model does not take it.
    """
    args, kwargs = as_call(batch)
    what = f"the {type(model).__name__} does not take the batch"
    with taking(what, "pass batches as the model takes them, without labels"):
        return tree_leaves(model(*args, **kwargs))


@contextmanager
def taking(what: str, remedy: str, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Say of a model that raises an error on what it is called with that it does not take it.

    Memory that runs out says nothing of the input.

    Args:
        what: What is said, as a sentence.
        remedy: What the user can do about it.
        passing: Errors that say nothing of the input either.

    Raises:
        InputRejectedError: Something was raised within.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (RetrofitError, *passing)) or is_out_of_memory(error):
            raise
        said = str(error).strip().splitlines()
        raise InputRejectedError(what, why=said[0] if said else type(error).__name__, remedy=remedy) from error


def inputs_for(models: Models, batch: Batch) -> tuple[Batch, Batch]:
    """A copy of a batch for each model; models of two precisions have it in their own each."""
    dtypes = tuple(map(dtype_of, models))
    own = dtypes if dtypes[0] != dtypes[1] else (None, None)
    return input_for(models[0], batch, own[0]), input_for(models[1], batch, own[1])


def outputs_of(models: Models, batch: Batch) -> Outputs:
    """Both models' results on a batch."""
    first, second = inputs_for(models, batch)
    with torch.inference_mode():
        return call(models[0], first), call(models[1], second)


def ranked(outputs: Outputs) -> tuple[Tensor, Tensor] | None:
    """Both models' logits, (N, K) each; None where the outputs are something else."""
    if not outputs[0] or not outputs[1]:
        return None
    a, b = outputs[0][0], outputs[1][0]
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return None
    return (a, b) if a.dim() == 2 and a.shape == b.shape and a.shape[1] > 1 else None


def add_outputs(differences: Differences, outputs: Outputs) -> None:
    """Compare what both models return for a batch."""
    if not any(isinstance(leaf, Tensor) for leaf in outputs[0]):
        differences.problem = "the models return no tensor that could be compared"
        return
    if len(outputs[0]) != len(outputs[1]):
        differences.problem = f"the models return {len(outputs[0])} and {len(outputs[1])} values"
        return
    for a, b in zip(*outputs, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            differences.add(a, b)
        elif type(a) is not type(b) or a != b:
            differences.problem = f"one returns a {type(a).__name__} where the other returns another value"
    if (pair := ranked(outputs)) is not None:
        differences.rank(*pair)
