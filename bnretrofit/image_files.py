"""A folder -> the images in it, and their classes."""

import hashlib
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bnretrofit.errors import InputRejectedError

__all__ = ["ImageFiles", "find_images", "visible"]

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
        return self.taken(chosen)

    def without(self, used: "ImageFiles") -> "ImageFiles":
        """Those that are not in `used`."""
        taken = set(used.paths)
        return self.taken([index for index, path in enumerate(self.paths) if path not in taken])

    def taken(self, chosen: Iterable[int]) -> "ImageFiles":
        """Those at the indices."""
        chosen = tuple(chosen)
        labels = tuple(self.labels[index] for index in chosen) if self.labels else ()
        return ImageFiles(self.root, tuple(self.paths[index] for index in chosen), labels, self.classes, self.others)

    def digest(self) -> str:
        """SHA-256 over names and contents: that of the lines `sha256sum` prints in the folder, sorted by name."""
        whole = hashlib.sha256()
        for name, path in sorted((os.fsencode(path.relative_to(self.root).as_posix()), path) for path in self.paths):
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").hexdigest().encode() + b"  " + name + b"\n")
        return whole.hexdigest()


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
        are = "is no image" if len(others) == 1 else "are no images"
        raise InputRejectedError(
            f"{len(others)} of the {len(visible)} files in the folder {are} by name",
            where=str(folder),
            why=", ".join(str(path.relative_to(folder)) for path in others[:3]),
            remedy=f"remove them, or pass --max-bad-images {len(others)}",
        )
    parents = [path.relative_to(folder).parts[:-1] for path in paths]
    if not all(parents):
        return ImageFiles(folder, paths, (), (), others)
    classes = sorted({parts[0] for parts in parents})
    return ImageFiles(folder, paths, tuple(classes.index(parts[0]) for parts in parents), tuple(classes), others)


def visible(folder: Path) -> list[Path]:
    """What lies in a folder itself, but for what editors, notebooks and commands hide there."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


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
