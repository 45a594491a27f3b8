"""A small network, images that it can learn, and runs of fine-tuning that can be broken off."""

import json
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit import retrofit
from bnretrofit.training import TrainingConfig, finetune_on
from bnretrofit.training.history import Epoch
from bnretrofit.training.loaders import LoaderSet
from bnretrofit.training.memory_keeper import MemoryKeeper
from bnretrofit.training.protocols import Labelled
from bnretrofit.training.results import Results
from bnretrofit.training.saving import SavedRun

CLASSES = 4
BATCH = 16


def network(*, dropout: float = 0.3) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, CLASSES)),
    ).eval()


def samples(count: int = 96) -> list[Labelled]:
    """Images whose class is how bright they are in one channel."""
    draw = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % CLASSES
    images = torch.randn(count, 3, 6, 6, generator=draw)
    images[:, 1] += labels.view(-1, 1, 1).float()
    return [(images[at : at + BATCH], labels[at : at + BATCH]) for at in range(0, count, BATCH)]


def with_norms(**options: Any) -> nn.Module:
    return retrofit(network(**options), [torch.cat([images for images, _ in samples()])])


def config(**changes: Any) -> TrainingConfig:
    return replace(TrainingConfig(epochs=3, lr=0.1, bn_stats="batch"), **changes)


def trained(model: nn.Module, settings: TrainingConfig, keeper: MemoryKeeper | None = None) -> Results:
    return finetune_on(model, LoaderSet(samples(), samples()), settings, device="cpu", keeper=keeper)


def as_read(run: SavedRun) -> SavedRun:
    """A run's state as a file gives it back: it holds no layout of tensors, and the rest goes through its header."""
    tensors = {name: tensor.contiguous() for name, tensor in run.tensors.items()}
    return SavedRun(tensors, json.loads(json.dumps(run.document)))


class Stopped(MemoryKeeper):
    """Ends the run when it is to save a step, as a kill does: what is saved then is lost."""

    def __init__(self, step: int | None) -> None:
        super().__init__()
        self.stop = step

    def is_due(self, step: int) -> bool:
        return step % 2 == 0

    def save(self, run: SavedRun) -> None:
        if self.stop is not None and run.progress.step >= self.stop:
            raise KeyboardInterrupt
        super().save(as_read(run))


class Broken(MemoryKeeper):
    """Ends the run at the write with this number, as a kill does: what is written then is lost."""

    def __init__(self, at: int | None) -> None:
        super().__init__()
        self.at, self.writes = at, 0

    def _count(self) -> None:
        self.writes += 1
        if self.writes == self.at:
            raise KeyboardInterrupt

    def save(self, run: SavedRun) -> None:
        self._count()
        super().save(as_read(run))

    def keep(self, name: str, tensors: dict[str, Tensor], epoch: Epoch, *, measured: bool) -> None:
        self._count()
        super().keep(name, tensors, epoch, measured=measured)
