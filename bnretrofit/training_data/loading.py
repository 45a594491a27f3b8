"""Batches by number -> tensors, in worker processes."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bnretrofit.errors import InputRejectedError
from bnretrofit.training_data.bad_images import BadImage
from bnretrofit.training_data.samples import Samples
from bnretrofit.training_data.seeding import preserved, seed
from bnretrofit.workers import begin_worker

__all__ = ["LoadedBatch", "Loader", "Task", "as_it_is", "stacked"]


@dataclass(frozen=True, slots=True)
class Task:
    """A batch to be made.

    Attributes:
        indices: Numbers of its images, (N,), int64.
        epoch: In which they are augmented.
    """

    indices: Tensor
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class LoadedBatch:
    """A batch.

    Attributes:
        images: (N, C, H, W), float32; without those that cannot be read, so N may be 0.
        labels: (N,), int64.
        bad: Those that were left out.
        refusal: Why there is no batch. It is an attribute, since a DataLoader would make another error of it.
    """

    images: Tensor
    labels: Tensor
    bad: tuple[BadImage, ...] = ()
    refusal: InputRejectedError | None = None

    def check_size(self, min_batch: int) -> None:
        """See that enough images are left of it.

        Raises:
            InputRejectedError: There are fewer than `min_batch`.
        """
        if len(self.labels) < min_batch:
            raise InputRejectedError(
                f"too few images are left of a batch: {len(self.labels)}",
                where=self.bad[0].where if self.bad else None,
                why=f"{len(self.bad)} of it cannot be read, and the statistics of a batch need {min_batch} images",
                remedy="remove the unreadable images, or raise --batch-size",
            )


class Loader:
    """Makes batches of samples, in order; its processes stay for the next time once they have made all.

    Args:
        samples: The images.
        transform: Image -> (C, H, W), float32; what it draws is a function of seed, epoch and image.
        mode: "RGB" or "L".
        workers: Processes; 0 for none but this one.
        seed: Of the transform.
    """

    def __init__(self, samples: Samples, transform: Any, mode: str, *, workers: int, seed: int) -> None:
        self.examples = _Examples(samples, transform, mode, seed)
        self.workers = workers
        self._idle: tuple[DataLoader[LoadedBatch], _Queue] | None = None

    def batches(self, tasks: Iterable[Task]) -> Generator[LoadedBatch, None, None]:
        """Make them; an iterator that is closed or dropped before its end takes its processes with it.

        Raises:
            InputRejectedError: The images of a batch are of different sizes.
        """
        # Taken away while in use: another iterator at the same time gets processes of its own.
        (loader, queue), self._idle = self._idle or self._made(), None
        queue.tasks = tasks
        try:
            for batch in loader:
                if batch.refusal is not None:
                    raise batch.refusal
                yield batch
            self._idle = loader, queue
        finally:
            # A DataLoader has no other way to end its processes than to be let go.
            del loader

    def close(self) -> None:
        """End processes that wait."""
        self._idle = None

    def _made(self) -> "tuple[DataLoader[LoadedBatch], _Queue]":
        queue = _Queue()
        loader: DataLoader[LoadedBatch] = DataLoader(
            self.examples,
            batch_size=None,
            sampler=queue,
            num_workers=self.workers,
            collate_fn=as_it_is,
            worker_init_fn=begin_worker,
            persistent_workers=self.workers > 0,
            # Without one of its own a DataLoader draws from torch's, and so changes what dropout draws.
            generator=torch.Generator(),
        )
        return loader, queue


def stacked(images: list[Tensor], labels: list[int], names: list[str], bad: tuple[BadImage, ...] = ()) -> LoadedBatch:
    """Images of one size -> a batch; of several sizes -> a refusal."""
    target = torch.tensor(labels, dtype=torch.int64)
    if not images:
        return LoadedBatch(torch.empty(0), target, bad)
    odd = next((place for place, image in enumerate(images) if image.shape != images[0].shape), None)
    if odd is None:
        return LoadedBatch(torch.stack(images), target, bad)
    sizes = [f"{names[place]} is {images[place].shape[-2]} x {images[place].shape[-1]} px" for place in (0, odd)]
    refusal = InputRejectedError(
        "the images are of different sizes, and a batch has one", why=" and ".join(sizes), remedy="pass --img-size"
    )
    return LoadedBatch(torch.empty(0), target, bad, refusal)


class _Queue:
    """What a loader that lives on is to make next."""

    def __init__(self) -> None:
        self.tasks: Iterable[Task] = ()

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)


class _Examples(Dataset[LoadedBatch]):
    def __init__(self, samples: Samples, transform: Any, mode: str, seed: int) -> None:
        self.samples, self.transform, self.mode, self.seed = samples, transform, mode, seed

    def __getitem__(self, task: Task) -> LoadedBatch:
        images, labels, names = [], [], []
        bad: list[BadImage] = []
        with preserved():
            for index in task.indices.tolist():
                name = self.samples.name(index)
                try:
                    image, label = self.samples.read(index, self.mode)
                except InputRejectedError as error:
                    bad.append(BadImage(name, self.samples.where(index), str(error.why)))
                    continue
                seed("image", self.seed, task.epoch, index)
                images.append(self.transform(image))
                labels.append(label)
                names.append(name)
        return stacked(images, labels, names, tuple(bad))


def as_it_is(batch: Any) -> Any:
    """Collate a batch that is one already."""
    return batch
