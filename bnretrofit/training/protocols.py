"""What a run needs of its surroundings: a training set to learn from, and a place to keep what it has learnt."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from bnretrofit.training.history import Epoch
from bnretrofit.training.saving import SavedRun

__all__ = ["Keeper", "Labelled", "TrainingSet", "Weights"]

Labelled = tuple[Tensor, Tensor]
"""Images (N, C, H, W) and labels (N,), int64."""


class TrainingSet(Protocol):
    """Labelled images, in an order that is the epoch's."""

    def batches_per_epoch(self, ranks: int = 1, accumulate: int = 1) -> int | None:
        """Steps of an epoch, each of `accumulate` batches on each rank; None where nobody knows."""

    def train(
        self, epoch: int, *, start: int = 0, rank: int = 0, ranks: int = 1, accumulate: int = 1
    ) -> Iterator[Labelled]:
        """A rank's batches of an epoch, from step number `start`."""

    def validation(self, rank: int = 0, ranks: int = 1) -> Iterable[Labelled] | None:
        """A rank's share of the validation images; None without any."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that were kept.

    Attributes:
        tensors: By the model's own keys.
        epoch: Which one's; None where nobody has said.
        measured: Whether the running statistics were measured again with these weights.
    """

    tensors: dict[str, Tensor]
    epoch: int | None
    measured: bool


class Keeper(Protocol):
    """Where a run is kept. What it was given last is there whole, whenever the process ends."""

    def load(self) -> SavedRun | None:
        """The state that was saved last; None for a run that begins."""

    def is_due(self, step: int) -> bool:
        """Whether the state is to be saved after this step, though the epoch goes on."""

    def save(self, run: SavedRun) -> None:
        """Keep a state instead of the last one."""

    def weights(self, name: str) -> Weights | None:
        """The weights kept under "best" or "last"."""

    def keep(self, name: str, tensors: dict[str, Tensor], epoch: Epoch, *, measured: bool) -> None:
        """Keep weights under "best" or "last", instead of those before."""
