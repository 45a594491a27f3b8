"""A folder of images -> batches. timm does the transforms."""

import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bnretrofit.errors import InputRejectedError
from bnretrofit.preprocessing import Preprocessing

__all__ = ["ImageBatches", "ImageFiles", "find_images"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"})
IGNORED = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The images of a folder.

    Attributes:
        root: The folder.
        paths: The images, in the order of their names.
        labels: For each the index of its class folder; empty for a flat folder.
        classes: The names of the class folders, sorted.
        others: Files that are no images by their name.
    """

    root: Path
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    others: tuple[Path, ...]

    def sampled(self, count: int | None, seed: int) -> "ImageFiles":
        """A random subset of that size, drawn with the seed and kept in order; all of them for None."""
        if count is None or count >= len(self.paths):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.paths)), count))  # noqa: S311 - a sample, not a secret
        return self._taken(chosen)

    def without(self, used: "ImageFiles") -> "ImageFiles":
        """Those that are not in `used`."""
        taken = set(used.paths)
        return self._taken([index for index, path in enumerate(self.paths) if path not in taken])

    def _taken(self, chosen: list[int]) -> "ImageFiles":
        labels = tuple(self.labels[index] for index in chosen) if self.labels else ()
        return ImageFiles(self.root, tuple(self.paths[index] for index in chosen), labels, self.classes, self.others)


def find_images(folder: Path, max_bad_images: int = 0) -> ImageFiles:
    """List a folder of images: one folder per class, or flat.

    Args:
        folder: The folder; its subfolders are its classes.
        max_bad_images: How many files that are no images are allowed.

    Returns:
        The images.

    Raises:
        InputRejectedError: The folder does not exist, holds no image, or too many files that are none.
    """
    if not folder.is_dir():
        why = "it is a file" if folder.exists() else "there is no such folder"
        raise InputRejectedError("the images cannot be read", where=str(folder), why=why)
    visible = sorted(path for path in _files(folder) if path.name.lower() not in IGNORED)
    paths = tuple(path for path in visible if path.suffix.lower() in SUFFIXES)
    others = tuple(path for path in visible if path.suffix.lower() not in SUFFIXES)
    if not paths:
        why = (
            "it is empty"
            if not visible
            else f"its {len(others)} files are no images by their names ({others[0].name} …)"
        )
        raise InputRejectedError("the folder holds no image", where=str(folder), why=why)
    if len(others) > max_bad_images:
        raise InputRejectedError(
            f"{len(others)} files in the folder of {len(paths)} images are no images",
            where=str(folder),
            why=", ".join(str(path.relative_to(folder)) for path in others[:3]),
            remedy=f"remove them, or pass --max-bad-images {len(others)}",
        )
    parents = [path.relative_to(folder).parts[:-1] for path in paths]
    if not all(parents):
        return ImageFiles(folder, paths, (), (), others)
    classes = sorted({parts[0] for parts in parents})
    return ImageFiles(folder, paths, tuple(classes.index(parts[0]) for parts in parents), tuple(classes), others)


def _files(folder: Path) -> Iterator[Path]:
    # Links are followed, as torchvision's ImageFolder does; hidden files and folders are none of ours.
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        kept = []
        for name in folders:
            real = os.path.realpath(Path(place, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        yield from (Path(place, name) for name in names if not name.startswith("."))


@dataclass(slots=True)
class ImageBatches:
    """Images as batches (N, C, H, W), float32; images that cannot be read are counted in `bad`.

    A batch holds images of one size: where sizes change, a new batch begins.

    Attributes:
        files: The images.
        preprocessing: How each becomes a tensor.
        batch_size: Images per batch.
        workers: Processes that decode; 0 decodes in this one.
        max_bad_images: How many may be unreadable before an error.
        bad: Those that were, with the reason, after a pass.
    """

    files: ImageFiles
    preprocessing: Preprocessing
    batch_size: int
    workers: int = 0
    max_bad_images: int = 0
    bad: list[str] = field(default_factory=list)
    _bad_indices: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return math.ceil(len(self.files.paths) / self.batch_size)

    @property
    def labels(self) -> list[int]:
        """Labels of the images that could be read, after a pass or before it if all can."""
        return [label for index, label in enumerate(self.files.labels) if index not in self._bad_indices]

    def first(self) -> Tensor:
        """The first batch.

        Raises:
            InputRejectedError: No image could be read.
        """
        return next(iter(self))

    def __iter__(self) -> Iterator[Tensor]:
        self.bad, self._bad_indices = [], set()
        loader: DataLoader[Any] = DataLoader(
            _Decoded(self.files.paths, self.preprocessing),
            batch_size=self.batch_size,
            num_workers=self.workers,
            collate_fn=list,
        )
        for items in loader:
            yield from self._stacked(items)
        if len(self.bad) == len(self.files.paths):
            raise InputRejectedError(
                "no image of the folder can be read", where=str(self.files.root), why=f"the first is {self.bad[0]}"
            )

    def _stacked(self, items: list[tuple[int, Tensor | str]]) -> Iterator[Tensor]:
        pending: list[Tensor] = []
        for index, item in items:
            if isinstance(item, str):
                self._note_bad(index, item)
                continue
            if pending and item.shape != pending[-1].shape:
                yield torch.stack(pending)
                pending = []
            pending.append(item)
        if pending:
            yield torch.stack(pending)

    def _note_bad(self, index: int, reason: str) -> None:
        path = self.files.paths[index]
        self._bad_indices.add(index)
        self.bad.append(f"{path.relative_to(self.files.root)}: {reason}")
        if len(self.bad) + len(self.files.others) > self.max_bad_images:
            raise InputRejectedError(
                "an image cannot be read",
                where=str(path),
                why=reason,
                remedy="remove it, or allow some with --max-bad-images",
            )


class _Decoded(Dataset[tuple[int, Tensor | str]]):
    """(index, image as a tensor), or (index, the reason why it cannot be read)."""

    def __init__(self, paths: tuple[Path, ...], preprocessing: Preprocessing) -> None:
        self.paths = paths
        self.mode = "L" if preprocessing.input_size[0] == 1 else "RGB"
        self.transform = _transform(preprocessing)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            with Image.open(self.paths[index]) as image:
                return index, self.transform(image.convert(self.mode))
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return index, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _transform(preprocessing: Preprocessing) -> Any:
    from timm.data.transforms_factory import create_transform
    from torchvision.transforms import Compose, Normalize, ToTensor

    channels, height, width = preprocessing.input_size
    mean, std = (
        tuple(values) * (channels if len(values) == 1 else 1) for values in (preprocessing.mean, preprocessing.std)
    )
    if height is None or width is None:
        return Compose([ToTensor(), Normalize(mean, std)])
    return create_transform(
        input_size=(channels, height, width),
        is_training=False,
        interpolation=preprocessing.interpolation,
        mean=mean,
        std=std,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
    )
