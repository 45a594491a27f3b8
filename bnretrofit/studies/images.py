"""The images a study learns from, in memory: the bundled digits, or a user's folders."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bnretrofit.data import eval_transform
from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training_data.folders import open_folders
from bnretrofit.training_data.samples import Part
from bnretrofit.zoo import bundled_folder

__all__ = ["SIZE", "Images", "Labelled", "batches_of", "bundled_digits", "digits_for", "images_of", "some_of"]

Labelled = tuple[Tensor, Tensor]
"""Images (N, 3, 32, 32), float32, and labels (N,), int64."""

SIZE = (3, 32, 32)

FEWEST = 32
"""Images of a folder: batches of several sizes are cut from them."""

SAME = 1e-6
"""Standard deviation of a channel, of 0 to 1, below which all its pixels are the same."""


@dataclass(frozen=True, slots=True)
class Images:
    """Images of 32 x 32 pixels, normalised.

    Attributes:
        train: To learn from.
        test: To judge with.
        mean: What was taken from the pixels, 0 to 1, of each channel, (3,).
        deviation: What they were divided by then, (3,).
    """

    train: Labelled
    test: Labelled
    mean: Tensor
    deviation: Tensor

    @property
    def classes(self) -> int:
        """How many there are."""
        return 1 + int(self.train[1].max())

    @property
    def guessing(self) -> float:
        """Accuracy of always telling the commonest class of those to judge with."""
        return float(torch.bincount(self.test[1]).max() / len(self.test[1]))


def some_of(labelled: Labelled, count: int) -> Labelled:
    """So many of them, or all if there are fewer, evenly from the whole: folders are read class by class."""
    rows = _evenly(len(labelled[1]), count)
    return labelled[0][rows], labelled[1][rows]


def _evenly(count: int, most: int | None) -> Tensor:
    if most is None or most >= count:
        return torch.arange(count)
    return torch.linspace(0, count - 1, most).round().long()


def batches_of(labelled: Labelled, size: int = 256) -> Iterator[Labelled]:
    """All of them, in order."""
    yield from zip(labelled[0].split(size), labelled[1].split(size), strict=True)


def bundled_digits() -> Images:
    """200 handwritten digits to learn from and 360 to judge with, from the bundled folder."""
    return images_of(*_digits())


def digits_for(preprocessing: Preprocessing) -> tuple[Labelled, Labelled]:
    """The same as a network's own preprocessing makes them: those to learn from, and those to judge with."""
    return _both(*_digits(), preprocessing, None, None)


def _digits() -> tuple[Path, Path]:
    folder = bundled_folder() / "digits"
    return folder / "train", folder / "val"


def images_of(train: Path, test: Path, *, most: int | None = None, most_to_judge: int | None = None) -> Images:
    """Read two folders of images with a folder per class; all are normalised by the pixels of those to learn from.

    Args:
        train: To learn from.
        test: To judge with.
        most: Take at most so many to learn from, evenly from the whole; None for all.
        most_to_judge: The same of those to judge with.

    Raises:
        InputRejectedError: A folder cannot be read, has no class folders, or classes that training has not; or there
            are too few images or classes.
        UsageError: There are no images to judge with.
    """
    (pixels, labels), (others, of_others) = _both(train, test, Preprocessing(SIZE), most, most_to_judge)
    mean = pixels.mean((0, 2, 3), keepdim=True)
    spread = pixels.std((0, 2, 3), keepdim=True)
    # A channel that is the same everywhere is not divided.
    deviation = torch.where(spread > SAME, spread, 1.0)
    normalised = [(each - mean) / deviation for each in (pixels, others)]
    _check(labels, of_others, train)
    return Images((normalised[0], labels), (normalised[1], of_others), mean.flatten(), deviation.flatten())


def _check(labels: Tensor, others: Tensor, where: Path) -> None:
    if len(labels) < FEWEST or len(others) < FEWEST or len(labels.unique()) < 2:
        raise InputRejectedError(
            "there are too few images for a study",
            where=str(where),
            why=f"{len(labels)} of {len(labels.unique())} classes to learn from and {len(others)} to judge with",
            remedy=f"take folders with at least {FEWEST} images each and two classes, or a higher --limit",
        )


def _both(
    train: Path, test: Path, preprocessing: Preprocessing, most: int | None, most_to_judge: int | None
) -> tuple[Labelled, Labelled]:
    found = open_folders(train, test, val_split=None, seed=0)
    if found.val is None:
        raise UsageError("there are no images to judge with", remedy="name their folder")
    transform = eval_transform(preprocessing)
    return _read(found.train, transform, most), _read(found.val, transform, most_to_judge)


def _read(part: Part, transform: Any, most: int | None) -> Labelled:
    indices = part.indices[_evenly(len(part), most)]
    read = (part.samples.read(index, "RGB") for index in indices.tolist())
    pairs = [(transform(image), label) for image, label in tqdm(read, "read", len(indices), delay=1.0, leave=False)]
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])
