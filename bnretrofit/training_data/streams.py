"""A stream of timm's, whose images have no numbers -> batches, in worker processes."""

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from bnretrofit.errors import InputRejectedError
from bnretrofit.training_data.bad_images import BadImage
from bnretrofit.training_data.loading import LoadedBatch, as_it_is, stacked
from bnretrofit.training_data.seeding import generator, preserved, seed
from bnretrofit.workers import begin_worker

__all__ = ["StreamPlan", "stream_batches"]


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """How a stream is read.

    Attributes:
        title: What messages call it.
        mode: "RGB" or "L".
        batch_size: Images per batch.
        seed: Of the transform.
        epoch: Of the transform.
        rank: Which process reads.
        taken_by: Of how many images one is taken, for a reader that gives all of them to each process.
        skipped: How many batches are passed over at the beginning; those that come out for it are empty.
        whole_batches: Whether an incomplete last batch is dropped.
    """

    title: str
    mode: str
    batch_size: int
    seed: int
    epoch: int = 0
    rank: int = 0
    taken_by: int = 1
    skipped: int = 0
    whole_batches: bool = False


def stream_batches(dataset: Any, transform: Any, plan: StreamPlan, workers: int) -> Generator[LoadedBatch, None, None]:
    """Read a stream once; closing or dropping the iterator ends its workers.

    Args:
        dataset: An `IterableDataset` of (image, target), as timm makes it: it shares itself out among workers.
        transform: Image -> (C, H, W), float32.
        plan: How it is read.
        workers: Processes; 0 for none but this one.

    Raises:
        InputRejectedError: The stream broke off, or its images are of different sizes.
    """
    # Workers take turns, so whole rounds are passed over in them, and what is left of a round here.
    rounds, rest = divmod(plan.skipped, max(1, workers))
    loader: DataLoader[LoadedBatch] = DataLoader(
        _Stream(dataset, transform, plan, rounds),
        batch_size=None,
        num_workers=workers,
        collate_fn=as_it_is,
        worker_init_fn=begin_worker,
        # Readers shuffle with what workers are seeded with, which comes from here.
        generator=generator("stream", plan.seed, plan.epoch, plan.rank),
    )
    for place, batch in enumerate(loader):
        if batch.refusal is not None:
            raise batch.refusal
        yield batch if place >= rest else LoadedBatch(batch.images[:0], batch.labels[:0], batch.bad)


class _Stream(IterableDataset[LoadedBatch]):
    def __init__(self, dataset: Any, transform: Any, plan: StreamPlan, rounds: int) -> None:
        self.dataset, self.transform, self.plan, self.rounds = dataset, transform, plan, rounds

    def __iter__(self) -> Iterator[LoadedBatch]:
        with _Reasons().listening() as reasons:
            yield from self._batches(reasons)

    def _batches(self, reasons: list[str]) -> Iterator[LoadedBatch]:
        plan, images, labels = self.plan, list[Tensor](), list[int]()
        numbers: list[int] = []
        items, place = iter(self.dataset), -1
        while True:
            try:
                item = next(items, None)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - a library of data sets has exceptions of its own
                yield self._refused(error)
                return
            if item is None:
                break
            place += 1
            if place < self.rounds * plan.batch_size or place % plan.taken_by != plan.rank % plan.taken_by:
                continue
            images.append(self._augmented(item[0], place))
            labels.append(int(item[1]))
            numbers.append(place)
            if len(images) == plan.batch_size:
                yield self._stacked(images, labels, numbers, reasons)
                images, labels, numbers = [], [], []
        if reasons or (images and not plan.whole_batches):
            kept = 0 if plan.whole_batches else len(images)
            yield self._stacked(images[:kept], labels[:kept], numbers[:kept], reasons)

    def _augmented(self, image: Any, place: int) -> Tensor:
        plan = self.plan
        with preserved():
            seed("stream", plan.seed, plan.epoch, plan.rank, _worker(), place)
            augmented: Tensor = self.transform(image.convert(plan.mode))
        return augmented

    def _stacked(self, images: list[Tensor], labels: list[int], numbers: list[int], reasons: list[str]) -> LoadedBatch:
        title = self.plan.title
        before = f"{title}, before image {numbers[-1] + 1 if numbers else 'the last'} of worker {_worker()}"
        bad = tuple(BadImage(title, f"{before} ({place})", reason) for place, reason in enumerate(reasons))
        reasons.clear()
        return stacked(images, labels, [f"{title} {number}" for number in numbers], bad)

    def _refused(self, error: Exception) -> LoadedBatch:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        refusal = InputRejectedError("the stream of images broke off", where=self.plan.title, why=said)
        return LoadedBatch(torch.empty(0), torch.empty(0, dtype=torch.int64), refusal=refusal)


def _worker() -> int:
    info = get_worker_info()
    return 0 if info is None else info.id


class _Reasons(logging.Handler):
    """Collects what timm's webdataset reader tells of samples that it passes over: it tells nobody but its logger."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(" ".join(record.getMessage().split()))

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        logger = logging.getLogger("timm.data.readers.reader_wds")
        logger.addHandler(self)
        try:
            yield self.heard
        finally:
            logger.removeHandler(self)
