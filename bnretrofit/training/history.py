"""What happened in each epoch of a run."""

import csv
import dataclasses
import io
import math
from dataclasses import dataclass
from typing import Any

from bnretrofit.errors import InputRejectedError

__all__ = ["Epoch", "History"]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch.

    Attributes:
        epoch: Its number, from 1; 0 is before the first step.
        step: Optimiser steps done by its end.
        lr: Learning rate of its last step.
        train_loss: Mean over its batches; None before the first step.
        val_loss: Mean over the validation images; None without any.
        val_top1: Share of them whose class was told right, 0 to 1; None without any.
        scale_median: Median of |weight| / sqrt(running_var + eps) over the channels of all norms; None without norms.
        scale_max: The largest of them.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float | None
    val_loss: float | None
    val_top1: float | None
    scale_median: float | None = None
    scale_max: float | None = None


@dataclass(frozen=True, slots=True)
class History:
    """A run, epoch by epoch.

    Attributes:
        epochs: The first is the state before training.
        stopped: Why it ended before its time, as a sentence; None if it did not.
    """

    epochs: tuple[Epoch, ...] = ()
    stopped: str | None = None

    @property
    def best(self) -> Epoch | None:
        """The epoch of the highest accuracy; the last one where there is no accuracy.

        Among equals it is the one of the lowest validation loss, and among these the first.
        """
        if not self.epochs or self.epochs[-1].val_top1 is None:
            return self.epochs[-1] if self.epochs else None
        return max(self.epochs, key=lambda epoch: (_accuracy(epoch), -_loss(epoch), -epoch.epoch))

    @property
    def last_gain(self) -> Epoch | None:
        """The epoch that brought the last better accuracy; the last one where there is no accuracy."""
        if not self.epochs or self.epochs[-1].val_top1 is None:
            return self.epochs[-1] if self.epochs else None
        return max(self.epochs, key=lambda epoch: (_accuracy(epoch), -epoch.epoch))

    def since_best(self) -> int:
        """How many epochs have brought no better accuracy."""
        return 0 if self.last_gain is None else self.epochs[-1].epoch - self.last_gain.epoch

    def with_epoch(self, epoch: Epoch) -> "History":
        """The same, one epoch later."""
        return dataclasses.replace(self, epochs=(*self.epochs, epoch))

    def to_csv(self) -> str:
        """A table with a line per epoch."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [item.name for item in dataclasses.fields(Epoch)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(epoch) for epoch in self.epochs)
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Any) -> "History":
        """What `to_json` wrote.

        Raises:
            InputRejectedError: The document is of another form.
        """
        try:
            return cls(tuple(Epoch(**epoch) for epoch in document["epochs"]), document["stopped"])
        except (KeyError, TypeError) as error:
            raise InputRejectedError("the stored history of a run is damaged", why=str(error)) from error


def _loss(epoch: Epoch) -> float:
    return math.inf if epoch.val_loss is None else epoch.val_loss


def _accuracy(epoch: Epoch) -> float:
    return -1.0 if epoch.val_top1 is None else epoch.val_top1
