"""Batches as callers give them -> images and the class of each, or what is wrong with them.

Shapes and dtypes alone are looked at before a batch is used, and nothing waits for a GPU.
"""

from typing import Any

import torch
from torch import Tensor

from bnretrofit.errors import InputRejectedError
from bnretrofit.training.protocols import Labelled

__all__ = ["ImageWatch", "admitted", "check_labels"]

LATE = 2**62
"""A step that no run comes to."""


def admitted(batch: Any, where: str) -> Labelled:
    """A batch as it is worked with: images, and the number of each one's class, (N,), int64.

    Args:
        batch: What a loader gives.
        where: Which one it is.

    Raises:
        InputRejectedError: It is something else.
    """
    if not isinstance(batch, (tuple, list)):
        raise _refused(f"the batch is a {type(batch).__name__}", where, "give pairs (images, labels)")
    if len(batch) != 2:
        count = f"{len(batch)} {'entry' if len(batch) == 1 else 'entries'}"
        raise _refused(f"the batch has {count}", where, "give pairs (images, labels)")
    images, labels = batch
    for name, given in (("images", images), ("labels", labels)):
        if not isinstance(given, Tensor):
            raise _refused(f"the {name} are a {type(given).__name__}", where, "give tensors")
    _check_kind(labels, where)
    if not images.dim() or len(images) != len(labels):
        count = str(len(images)) if images.dim() else "no"
        raise _refused(f"there are {count} images and {len(labels)} labels", where, "give one label per image")
    if not len(labels):
        raise _refused("the batch is empty", where, "leave out batches without images")
    return images, labels.long()


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse a label that there is no output for.

    Args:
        labels: (N,), integers.
        classes: Outputs of the network.

    Raises:
        InputRejectedError: There is one.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = int(labels[(labels < 0) | (labels >= classes)][0])
        remedy = "number the classes from 0" if wrong < 0 else "pass --num-classes, or number the classes from 0"
        raise InputRejectedError(f"a label is {wrong}", why=f"the network has {classes} outputs", remedy=remedy)


class ImageWatch:
    """Remembers on the device at which step images were first not finite and the loss neither.

    A network may take what is not finite for something else: then its images are not to blame for what comes later.

    Args:
        device: Where the images are.
    """

    def __init__(self, device: torch.device) -> None:
        self._first = torch.full((), LATE, dtype=torch.int64, device=device)

    @property
    def first(self) -> Tensor:
        """The step, or a number that no run comes to; int64 on the device."""
        return self._first

    def look(self, images: Tensor, loss: Tensor, step: int) -> None:
        """Look at the images of a step and at what came of them, without waiting for the device."""
        harmless = images.isfinite().all() | loss.isfinite()
        self._first = torch.where(harmless, self._first, self._first.clamp(max=step))

    @staticmethod
    def check(first: int) -> None:
        """Say it, if there was such a step.

        Args:
            first: The least of what all ranks remember.

        Raises:
            InputRejectedError: There was one.
        """
        if first < LATE:
            remedy = "check the files and the preprocessing; what was kept last is good"
            raise _refused("the images hold values that are NaN or infinite", f"step {first}", remedy)


def _check_kind(labels: Tensor, where: str) -> None:
    remedy = "give the number of each image's class, (N,), int64"
    if labels.dim() != 1:
        more = ", such as labels.argmax(1)" if labels.dim() == 2 else ""
        raise _refused(f"the labels have the shape {tuple(labels.shape)}", where, remedy + more)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise _refused(f"the labels are {str(labels.dtype).removeprefix('torch.')}", where, remedy)


def _refused(what: str, where: str, remedy: str) -> InputRejectedError:
    return InputRejectedError(what, where=where, remedy=remedy)
