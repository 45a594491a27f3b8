"""Batches of images that can be read by their number: what is seen when depends on seed, epoch and image alone."""

import copy
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bnretrofit.data import eval_transform
from bnretrofit.training_data.augmentation import Augmentation
from bnretrofit.training_data.bad_images import BadImages, bad_record
from bnretrofit.training_data.labelling import Labelling
from bnretrofit.training_data.loading import Loader, Task
from bnretrofit.training_data.order import consecutive, epoch_order, micro_batches, steps_of
from bnretrofit.training_data.passes import CountedPass, delivered
from bnretrofit.training_data.samples import Part
from bnretrofit.training_data.seeding import generator
from bnretrofit.training_data.source import LabelledBatch, TrainingSource
from bnretrofit.training_data.timm_datasets import parse_dataset

__all__ = ["IndexedSet"]


class IndexedSet:
    """A `TrainingSet` whose images have numbers.

    Args:
        source: What the user said.
        augmented: What is done to images in training.
        train: What to train on.
        val: What to validate with; None for nothing.
        bad_images: Those left out.
    """

    promise = (
        "an interrupted run goes on with the very images that it would have seen, in the same order and augmented "
        "alike, whatever the number of workers"
    )

    def __init__(
        self,
        source: TrainingSource,
        augmented: Augmentation,
        train: Part,
        val: Part | None,
        bad_images: BadImages,
    ) -> None:
        self.source, self.aug, self.bad_images = source, augmented.kind, bad_images
        self._train, self._val = train, val
        self._labelling = Labelling()
        self._evaluated = eval_transform(source.preprocessing)
        self._train_loader = self._loader(train, augmented.transform)
        self._val_loader = None if val is None else self._loader(val, self._evaluated)

    @property
    def classes(self) -> tuple[str, ...]:
        """As `TrainingSet.classes`."""
        return self._train.samples.classes

    @property
    def train_size(self) -> int:
        """As `TrainingSet.train_size`."""
        return len(self._train)

    @property
    def val_size(self) -> int:
        """As `TrainingSet.val_size`."""
        return 0 if self._val is None else len(self._val)

    @property
    def bad(self) -> list[str]:
        """As `TrainingSet.bad`."""
        return self.bad_images.listed()

    def relabelled(self, labels: Sequence[int]) -> "IndexedSet":
        """As `TrainingSet.relabelled`."""
        # A copy has the same processes, and the same list of what was left out.
        same = copy.copy(self)
        same._labelling = Labelling.of(labels, self.classes)  # noqa: SLF001 - of its own class
        return same

    def batches_per_epoch(self, ranks: int = 1, accumulate: int = 1) -> int:
        """As `TrainingSet.batches_per_epoch`."""
        return steps_of(self.train_size, self.source.batch_size, ranks * accumulate)

    def train(
        self, epoch: int, *, start: int = 0, rank: int = 0, ranks: int = 1, accumulate: int = 1
    ) -> Iterator[LabelledBatch]:
        """As `TrainingSet.train`."""
        source, slices = self.source, ranks * accumulate
        order = self._train.indices[epoch_order(self.train_size, source.seed, epoch)]
        batches = micro_batches(order, source.batch_size, slices, min_batch=source.min_batch, accumulate=accumulate)
        mine = batches[start * slices :][rank::ranks]
        return self._images(self._train_loader, [Task(indices, epoch) for indices in mine], source.min_batch)

    def validation(self, rank: int = 0, ranks: int = 1) -> CountedPass[LabelledBatch] | None:
        """As `TrainingSet.validation`."""
        loader = self._val_loader
        if self._val is None or loader is None:
            return None
        tasks = self._in_order(self._val.indices)[rank::ranks]
        return CountedPass(lambda: self._images(loader, tasks), len(tasks))

    def calibration_batches(self, limit: int | None = None) -> CountedPass[Tensor]:
        """As `TrainingSet.calibration_batches`."""
        drawn = torch.randperm(self.train_size, generator=generator("calibration", self.source.seed))[:limit]
        tasks = self._in_order(self._train.indices[drawn.sort().values])
        loader = self._loader(self._train, self._evaluated)
        return CountedPass(lambda: (images for images, _ in self._images(loader, tasks)), len(tasks))

    def record(self) -> dict[str, Any]:
        """As `TrainingSet.record`."""
        parts = {"": self._train} if self._val is None else {"": self._train, "val_": self._val}
        counts = {f"{prefix}images": len(part) for prefix, part in parts.items()}
        digests = {f"{prefix}names_sha256": part.names_sha256() for prefix, part in parts.items()}
        dataset = parse_dataset(self.source.root)
        title = "folder" if dataset is None else dataset.title
        return {
            "dataset": title,
            **counts,
            **digests,
            **bad_record(self.bad),
            "seed": self.source.seed,
            "aug": self.aug,
        }

    def close(self) -> None:
        """As `TrainingSet.close`."""
        self._train_loader.close()
        if self._val_loader is not None:
            self._val_loader.close()

    def _loader(self, part: Part, transform: Any) -> Loader:
        return Loader(part.samples, transform, self.source.mode, workers=self.source.workers, seed=self.source.seed)

    def _in_order(self, indices: Tensor) -> list[Task]:
        return [Task(indices[batch]) for batch in consecutive(len(indices), self.source.batch_size)]

    def _images(self, loader: Loader, tasks: list[Task], min_batch: int = 0) -> Generator[LabelledBatch, None, None]:
        return delivered(loader.batches(tasks), self.bad_images, self._labelling, min_batch=min_batch)
