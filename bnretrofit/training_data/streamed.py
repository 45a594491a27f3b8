"""Batches of a stream: its reader shuffles it and shares it out, and what a resumed run sees depends on that."""

import copy
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

from torch import Tensor

from bnretrofit.data import eval_transform
from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.training_data.augmentation import Augmentation
from bnretrofit.training_data.bad_images import BadImages, bad_record
from bnretrofit.training_data.labelling import Labelling
from bnretrofit.training_data.numbered import classes_of
from bnretrofit.training_data.passes import CountedPass, Pass, delivered
from bnretrofit.training_data.source import TRAIN_SPLIT, LabelledBatch, TrainingSource
from bnretrofit.training_data.streams import StreamPlan, stream_batches
from bnretrofit.training_data.timm_datasets import DatasetName, open_dataset

__all__ = ["StreamedSet"]


class StreamedSet:
    """A `TrainingSet` whose images come one after the other.

    An epoch is as long as timm makes it: where processes and workers do not share the images evenly, the reader begins
    again, and some images are seen twice.

    Args:
        source: What the user said.
        dataset: The data set.
        augmented: What is done to images in training.
    """

    promise = (
        "an interrupted run reads the stream again up to where it was; it goes on with the images that it would have "
        "seen only with as many processes and workers as before, and if the reader gives the same order again"
    )

    def __init__(
        self,
        source: TrainingSource,
        dataset: DatasetName,
        augmented: Augmentation,
    ) -> None:
        self.source, self.dataset, self.aug = source, dataset, augmented.kind
        self._augmented, self._labelling = augmented, Labelling()
        self._train_dataset = self._opened(source.train_split, training=True)
        self._val_reader = None if source.val is None else self._opened(source.val, training=False).reader
        self._left_out: dict[str, BadImages] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """As `TrainingSet.classes`."""
        return classes_of(getattr(self._train_dataset.reader, "class_to_idx", None) or {})

    @property
    def train_size(self) -> int | None:
        """As `TrainingSet.train_size`."""
        return getattr(self._train_dataset.reader, "num_samples", None) or None

    @property
    def val_size(self) -> int | None:
        """As `TrainingSet.val_size`."""
        return 0 if self._val_reader is None else getattr(self._val_reader, "num_samples", None) or None

    @property
    def bad(self) -> list[str]:
        """As `TrainingSet.bad`, of the last pass over either split: a stream does not tell which images they were."""
        return [line for _, bad in sorted(self._left_out.items()) for line in bad.listed()]

    def relabelled(self, labels: Sequence[int]) -> "StreamedSet":
        """As `TrainingSet.relabelled`."""
        same = copy.copy(self)
        same._labelling = Labelling.of(labels, self.classes)  # noqa: SLF001 - of its own class
        return same

    def batches_per_epoch(self, ranks: int = 1, accumulate: int = 1) -> int | None:
        """As `TrainingSet.batches_per_epoch`."""
        dataset = _shared_out(self._train_dataset, 0, ranks, self.source.workers)
        batches = len(dataset) // self.source.batch_size
        # A stream may not say how long it is; one that is too short for a step does.
        return batches // accumulate if batches else None

    def train(
        self, epoch: int, *, start: int = 0, rank: int = 0, ranks: int = 1, accumulate: int = 1
    ) -> Iterator[LabelledBatch]:
        """As `TrainingSet.train`; what comes before `start` is read again."""
        source = self.source
        if source.batch_size < source.min_batch:
            raise UsageError("a batch of 1 image cannot be trained on", remedy="raise --batch-size")
        steps = self.batches_per_epoch(ranks, accumulate)
        skipped = start * accumulate
        plan = self._plan(source.train_split, epoch=epoch, rank=rank, skipped=skipped, whole_batches=True)
        dataset = self._opened(source.train_split, training=True, epoch=epoch, rank=rank, ranks=ranks)
        batches = self._read(dataset, self._augmented.transform, plan)
        return batches if steps is None else _exactly(steps * accumulate - skipped, batches, plan.title)

    def validation(self, rank: int = 0, ranks: int = 1) -> Pass[LabelledBatch] | None:
        """As `TrainingSet.validation`; each process reads all of it, since readers would give some images twice."""
        split = self.source.val
        if split is None:
            return None
        plan = self._plan(split, rank=rank, taken_by=ranks)
        transform = eval_transform(self.source.preprocessing)
        return Pass(lambda: self._read(self._opened(split, training=False), transform, plan))

    def calibration_batches(self, limit: int | None = None) -> CountedPass[Tensor]:
        """As `TrainingSet.calibration_batches`: the first images of an epoch, as the reader shuffles it."""
        split = self.source.train_split
        transform = eval_transform(self.source.preprocessing)

        def images() -> Iterator[Tensor]:
            left = limit
            with closing(self._read(self._opened(split, training=True), transform, self._plan(split))) as batches:
                for batch, _ in batches:
                    yield batch[:left]
                    left = None if left is None else left - len(batch)
                    if left is not None and left <= 0:
                        return

        known = [self.batches_per_epoch(), None if limit is None else math.ceil(limit / self.source.batch_size)]
        return CountedPass(images, min((count for count in known if count is not None), default=0))

    def record(self) -> dict[str, Any]:
        """As `TrainingSet.record`."""
        bad = bad_record(self.bad)
        kept = {"dataset": self.dataset.title, "images": self.train_size, "val_images": self.val_size}
        split = self.source.train_split
        # The usual one is not named: runs from before it could be chosen go on.
        named = {} if split == TRAIN_SPLIT else {"train_split": split}
        return {**kept, **named, **bad, "seed": self.source.seed, "aug": self.aug}

    def close(self) -> None:
        """As `TrainingSet.close`; nothing waits."""

    def _opened(self, split: str, *, training: bool, epoch: int = 0, rank: int = 0, ranks: int = 1) -> Any:
        source = self.source
        dataset = open_dataset(
            self.dataset,
            split,
            is_training=training,
            batch_size=source.batch_size,
            seed=source.seed,
            input_img_mode=source.mode,
        )
        dataset.set_epoch(epoch)
        return _shared_out(dataset, rank, ranks, source.workers)

    def _plan(self, split: str, **choices: Any) -> StreamPlan:
        source = self.source
        return StreamPlan(f"{self.dataset.title} {split}", source.mode, source.batch_size, source.seed, **choices)

    def _read(self, dataset: Any, transform: Any, plan: StreamPlan) -> Generator[LabelledBatch, None, None]:
        bad_images = self._left_out[plan.title] = BadImages(self.source.max_bad_images)
        batches = stream_batches(dataset, transform, plan, self.source.workers)
        return delivered(batches, bad_images, self._labelling)


def _shared_out(dataset: Any, rank: int, ranks: int, workers: int) -> Any:
    # Readers look for torch.distributed when they are made; processes are numbered by the caller here.
    dataset.reader.dist_rank, dataset.reader.dist_num_replicas = rank, ranks
    dataset.set_loader_cfg(num_workers=max(1, workers))
    return dataset


def _exactly(count: int, batches: Generator[LabelledBatch, None, None], title: str) -> Iterator[LabelledBatch]:
    """That many batches: processes that took fewer would leave others waiting."""
    with closing(batches):
        for _ in range(count):
            batch = next(batches, None)
            if batch is None:
                raise InputRejectedError(
                    "the stream of images ended before the epoch did",
                    where=title,
                    why=f"{count} batches were expected",
                    remedy="use no more workers, times processes, than the data set has shards",
                )
            yield batch
