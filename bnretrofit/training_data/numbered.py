"""timm's data sets whose images have numbers -> samples."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from bnretrofit.decoding import decode
from bnretrofit.errors import InputRejectedError
from bnretrofit.training_data.samples import Samples

__all__ = ["classes_of", "numbered"]

Read = Callable[[Any, int, str], tuple[Image.Image, Any]]


@dataclass(frozen=True, slots=True)
class _Numbered:
    """Samples of a data set.

    Attributes:
        dataset: The data set.
        title: Its name and its split.
        read_one: Data set, number and mode -> pixels and target.
        classes: The names of its classes.
        labels: Its targets, if they can be had without its images.
    """

    dataset: Any
    title: str
    read_one: Read
    classes: tuple[str, ...]
    labels: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """Its number."""
        return f"{self.title} {index}"

    def where(self, index: int) -> str:
        """Its number."""
        return self.name(index)

    def read(self, index: int, mode: str) -> tuple[Image.Image, int]:
        """As `Samples.read`."""
        try:
            image, target = self.read_one(self.dataset, index, mode)
        except (InputRejectedError, MemoryError):
            raise
        except Exception as error:  # a damaged image brings out any exception of any library
            said = (error.strerror if isinstance(error, OSError) else None) or next(iter(str(error).splitlines()), "")
            raise InputRejectedError("an image cannot be read", why=f"{type(error).__name__}: {said}") from error
        if target is None or int(target) < 0:
            raise InputRejectedError("an image cannot be read", why="it has no label")
        return image, int(target)


def numbered(dataset: Any, title: str) -> Samples:
    """The samples of a map-style data set of timm's or torchvision's.

    Args:
        dataset: The data set.
        title: What messages call it.
    """
    reader = getattr(dataset, "reader", None)
    if reader is not None:
        by_name: dict[str, int] = getattr(reader, "class_to_idx", None) or {}
        return _Numbered(dataset, title, _from_reader, classes_of(by_name), _reader_labels(reader))
    by_name = getattr(dataset, "class_to_idx", None) or {}
    names = tuple(map(str, getattr(dataset, "classes", None) or ()))
    read = _from_path if hasattr(dataset, "samples") else _from_item
    targets = getattr(dataset, "targets", None)
    labels = None if targets is None else tuple(map(int, targets))
    return _Numbered(dataset, title, read, names or classes_of(by_name), labels)


def classes_of(by_name: dict[str, int]) -> tuple[str, ...]:
    """The names in the order of their indices."""
    return tuple(str(name) for name in sorted(by_name, key=by_name.__getitem__))


def _reader_labels(reader: Any) -> tuple[int, ...] | None:
    column, key = getattr(reader, "dataset", None), getattr(reader, "label_key", None)
    # A column of Hugging Face's; an image need not be fetched for it.
    if column is None or key is None or key not in column.column_names:
        return None
    labels = column[key]
    return None if any(label is None for label in labels) else tuple(map(int, labels))


def _from_reader(dataset: Any, index: int, mode: str) -> tuple[Image.Image, Any]:
    # timm's own __getitem__ puts the next image in the place of one that it cannot read.
    file, target, *_ = dataset.reader[index]
    with file:
        name = getattr(file, "name", None)
        if isinstance(name, str):
            return decode(Path(name), mode), target
        with tempfile.NamedTemporaryFile() as copy:
            copy.write(file.read())
            copy.flush()
            return decode(Path(copy.name), mode), target


def _from_path(dataset: Any, index: int, mode: str) -> tuple[Image.Image, Any]:
    # torchvision's own loader makes of 16 bits what Pillow does.
    path, target = dataset.samples[index]
    return decode(Path(path), mode), target


def _from_item(dataset: Any, index: int, mode: str) -> tuple[Image.Image, Any]:
    image, target = dataset[index]
    return image.convert(mode), target
