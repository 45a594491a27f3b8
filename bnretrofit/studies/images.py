"""The images a study learns from, in memory: the bundled digits, or a user's folders."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bnretrofit.data import eval_transform
from bnretrofit.errors import UsageError
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training_data.folders import open_folders
from bnretrofit.training_data.samples import Part
from bnretrofit.zoo import bundled_folder

__all__ = ["SIZE", "Images", "Labelled", "batches_of", "bundled_digits", "digits_for", "images_of", "some_of"]

Labelled = tuple[Tensor, Tensor]
"""Images (N, 3, 32, 32), float32, and labels (N,), int64."""

SIZE = (3, 32, 32)


@dataclass(frozen=True, slots=True)
class Images:
    """Images of 32 x 32 pixels, normalised.

    Attributes:
        train: To learn from.
        test: To judge with.
        deviation: By what standard deviation of the pixels, 0 to 1, each channel was divided, (3,).
    """

    train: Labelled
    test: Labelled
    deviation: Tensor

    @property
    def classes(self) -> int:
        """How many there are."""
        return 1 + int(self.train[1].max())


def some_of(labelled: Labelled, count: int) -> Labelled:
    """About so many of them, evenly from the whole: folders are read class by class."""
    stride = max(1, len(labelled[1]) // count)
    return labelled[0][::stride], labelled[1][::stride]


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
        InputRejectedError: A folder cannot be read, has no class folders, or classes that training has not.
        UsageError: There are no images to judge with.
    """
    (pixels, labels), (others, of_others) = _both(train, test, Preprocessing(SIZE), most, most_to_judge)
    mean = pixels.mean((0, 2, 3), keepdim=True)
    # A channel that is the same everywhere stays at zero.
    deviation = pixels.std((0, 2, 3), keepdim=True).clamp_min(1e-6)
    normalised = [(each - mean) / deviation for each in (pixels, others)]
    return Images((normalised[0], labels), (normalised[1], of_others), deviation.flatten())


def _both(
    train: Path, test: Path, preprocessing: Preprocessing, most: int | None, most_to_judge: int | None
) -> tuple[Labelled, Labelled]:
    found = open_folders(train, test, val_split=None, seed=0)
    if found.val is None:
        raise UsageError("there are no images to judge with", remedy="name their folder")
    transform = eval_transform(preprocessing)
    return _read(found.train, transform, most), _read(found.val, transform, most_to_judge)


def _read(part: Part, transform: Any, most: int | None) -> Labelled:
    indices = part.indices
    if most is not None and most < len(indices):
        indices = indices[torch.linspace(0, len(indices) - 1, most).round().long()]
    read = (part.samples.read(index, "RGB") for index in indices.tolist())
    pairs = [(transform(image), label) for image, label in tqdm(read, "read", len(indices), delay=1.0, leave=False)]
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])
