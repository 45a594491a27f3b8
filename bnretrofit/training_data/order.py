"""In which order an epoch goes over the images, and which of them make a batch."""

import torch
from torch import Tensor

from bnretrofit.errors import UsageError
from bnretrofit.training_data.seeding import generator

__all__ = ["consecutive", "epoch_order", "micro_batches", "steps_of"]


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """A permutation of 0 … count - 1, int64: that of the seed and the epoch."""
    return torch.randperm(count, generator=generator("order", seed, epoch))


def steps_of(count: int, batch_size: int, slices: int) -> int:
    """How many global batches an epoch has, each of `slices` times `batch_size` images.

    An incomplete last one is dropped, but for a set smaller than one.
    """
    return max(1, count // (batch_size * slices))


def micro_batches(
    order: Tensor, batch_size: int, slices: int, *, min_batch: int = 2, accumulate: int = 1
) -> tuple[Tensor, ...]:
    """Cut an epoch into micro-batches: global batch g consists of those from g * slices to (g + 1) * slices - 1.

    Args:
        order: Indices of the images, (count,), int64.
        batch_size: Images per micro-batch.
        slices: Micro-batches per global batch: ranks times accumulated batches.
        min_batch: How many images a micro-batch holds at least.
        accumulate: How many of the slices are one process's, by which the user is told what to change.

    Returns:
        For each its indices, (batch_size,); all the images, evenly, in one global batch where they do not fill one.

    Raises:
        UsageError: A micro-batch would hold fewer than `min_batch` images.
    """
    whole = batch_size * slices
    smallest = batch_size if len(order) >= whole else len(order) // slices
    if smallest < min_batch:
        raise _too_few(len(order), batch_size, slices, smallest, min_batch, accumulate)
    if len(order) < whole:
        return torch.tensor_split(order, slices)
    return tuple(order[: steps_of(len(order), batch_size, slices) * whole].split(batch_size))


def _too_few(images: int, batch_size: int, slices: int, smallest: int, min_batch: int, accumulate: int) -> UsageError:
    """The error of batches that are smaller than they may be, by whatever made them so."""
    need = f"the statistics of a batch need {min_batch} images" if min_batch > 1 else "a batch needs an image"
    processes = slices // accumulate
    remedies = ["use fewer processes"] * (processes > 1) + ["add images"] * (smallest < batch_size)
    remedies += ["train with frozen statistics (--bn-stats frozen)"] * (min_batch > 1)
    if accumulate == 1:
        of_each = "" if slices == 1 else f" for {slices} batches"
        return UsageError(
            f"a batch of {smallest} image{'' if smallest == 1 else 's'} cannot be trained on",
            why=f"there are {images} images{of_each}, at most {batch_size} in a batch, and {need}",
            remedy=" or ".join(["raise --batch-size"] * (smallest == batch_size) + remedies),
        )
    of_each = "" if processes == 1 else f" on each of {processes} processes"
    return UsageError(
        f"--grad-accum-steps {accumulate} is more than the images are enough for",
        why=f"a step takes {accumulate} batches of up to {batch_size}{of_each}, and there are {images} images; {need}",
        remedy=" or ".join(["lower --grad-accum-steps", *remedies]),
    )


def consecutive(count: int, batch_size: int) -> tuple[Tensor, ...]:
    """All of 0 … count - 1 in order, `batch_size` at a time; the last batch may be smaller."""
    return tuple(torch.arange(count).split(batch_size)) if count else ()
