"""What is trained on: what a user said of it, and what training asks of it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from bnretrofit.preprocessing import Preprocessing

__all__ = ["TRAIN_SPLIT", "CalibrationBatches", "LabelledBatch", "TrainingSet", "TrainingSource"]

TRAIN_SPLIT = "train"
"""The split to train on, as most data sets call it."""

LabelledBatch = tuple[Tensor, Tensor]
"""Images (N, C, H, W), float32, and labels (N,), int64."""


@dataclass(frozen=True, slots=True)
class TrainingSource:
    """What a user said of the images to train on.

    Attributes:
        root: A folder with a folder per class, a folder with the splits of a data set (train, val …), or a data set by
            timm's name: "hfds/NAME", "hfids/NAME", "tfds/NAME", "torch/NAME", "wds/FOLDER".
        preprocessing: The network's.
        val: A folder to validate with; of one of timm's data sets the name of a split.
        val_split: Where there is none, the share of each class that is set aside; None for none.
        seed: Of order, augmentation and split.
        aug: "auto", "none", "light" or "timm".
        batch_size: Images per batch and process.
        workers: Processes that decode; 0 decodes in this one.
        max_bad_images: How many images each process may leave out as unreadable.
        min_batch: How many images a batch holds at least: 2 for the statistics of a batch, 1 for frozen ones.
        data_dir: Of one of timm's data sets, where its files are; None for where its library keeps them.
        train_split: Of one of timm's data sets, the split to train on.
    """

    root: str
    preprocessing: Preprocessing
    val: str | None = None
    val_split: float | None = None
    seed: int = 0
    aug: str = "auto"
    batch_size: int = 32
    workers: int = 0
    max_bad_images: int = 0
    min_batch: int = 2
    data_dir: str | None = None
    train_split: str = TRAIN_SPLIT

    @property
    def mode(self) -> str:
        """Pillow's mode of what the network takes."""
        return "L" if self.preprocessing.input_size[0] == 1 else "RGB"


class CalibrationBatches(Protocol):
    """Images (N, C, H, W), float32, that can be gone over again."""

    def __iter__(self) -> Iterator[Tensor]: ...

    def __len__(self) -> int: ...


class TrainingSet(Protocol):
    """Batches to train on and to validate with."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of labels before any mapping; empty if they have none."""
        ...

    @property
    def train_size(self) -> int | None:
        """How many images are trained on; None if a stream does not say."""
        ...

    @property
    def val_size(self) -> int | None:
        """How many images are validated with; None if a stream does not say."""
        ...

    @property
    def aug(self) -> str:
        """The augmentation: "none", "light" or "timm"."""
        ...

    @property
    def bad(self) -> list[str]:
        """Images that this process has left out so far, each with its reason."""
        ...

    @property
    def promise(self) -> str:
        """What an interrupted run gets when it goes on, as a sentence."""
        ...

    def relabelled(self, labels: Sequence[int]) -> "TrainingSet":
        """The same with `labels[i]` as the label of class i.

        Raises:
            UsageError: There are not as many as classes.
        """
        ...

    def batches_per_epoch(self, ranks: int = 1, accumulate: int = 1) -> int | None:
        """How many global batches an epoch has; None if a stream does not say."""
        ...

    def train(
        self, epoch: int, *, start: int = 0, rank: int = 0, ranks: int = 1, accumulate: int = 1
    ) -> Iterator[LabelledBatch]:
        """The micro-batches of one process in an epoch.

        A global batch consists of ranks * accumulate micro-batches: process r of R gets those numbered r, r + R,
        r + 2R …, so that one process that accumulates two sees what two processes see.

        Args:
            epoch: From 0.
            start: The global batch to begin with.
            rank: Which process.
            ranks: Of how many.
            accumulate: How many micro-batches of each process make a global batch.

        Returns:
            Batches; closing or dropping the iterator ends its workers.

        Raises:
            UsageError: A batch would hold fewer than `min_batch` images.
            InputRejectedError: Too many images cannot be read, or too few of a batch can.
        """
        ...

    def validation(self, rank: int = 0, ranks: int = 1) -> Iterable[LabelledBatch] | None:
        """The batches of one process in a pass over what is validated with: each image once, without augmentation.

        None if there is nothing to validate with.
        """
        ...

    def calibration_batches(self, limit: int | None = None) -> CalibrationBatches:
        """Images to train on, without augmentation, to measure statistics with; can be gone over again.

        Args:
            limit: How many at most, drawn with the seed; None for all.
        """
        ...

    def record(self) -> dict[str, Any]:
        """What is kept of the images with the network: a JSON document without folders of this machine."""
        ...

    def close(self) -> None:
        """End processes that wait for the next epoch."""
        ...
