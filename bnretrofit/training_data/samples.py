"""Labelled images that can be read by their number, wherever they are kept."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from bnretrofit.decoding import decode
from bnretrofit.image_files import ImageFiles

__all__ = ["FolderSamples", "Part", "Samples"]


class Samples(Protocol):
    """Labelled images by number. It goes to worker processes, so it can be pickled."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty if they have none."""
        ...

    @property
    def labels(self) -> tuple[int, ...] | None:
        """The class of each image; None where only reading it tells."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What an image is called in what is kept: no folder of this machine is in it."""
        ...

    def where(self, index: int) -> str:
        """Where it is, for who is to look at it; no other image is there."""
        ...

    def read(self, index: int, mode: str) -> tuple[Image.Image, int]:
        """Decode an image.

        Args:
            index: Its number.
            mode: "RGB" or "L".

        Returns:
            Its pixels and its class.

        Raises:
            InputRejectedError: It cannot be read; `why` says the reason without naming it.
        """
        ...


@dataclass(frozen=True, slots=True)
class FolderSamples:
    """The images of class folders.

    Attributes:
        files: The images.
        classes: The names of the classes.
        labels: For each image the index of its class among `classes`.
    """

    files: ImageFiles
    classes: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files.paths)

    def name(self, index: int) -> str:
        """Its path from the folder."""
        return self.files.paths[index].relative_to(self.files.root).as_posix()

    def where(self, index: int) -> str:
        """Its path."""
        return str(self.files.paths[index])

    def read(self, index: int, mode: str) -> tuple[Image.Image, int]:
        """As `Samples.read`."""
        return decode(self.files.paths[index], mode), self.labels[index]


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the samples: what is trained on, or what is validated with.

    Attributes:
        samples: What they are among.
        indices: Their numbers, (N,), int64.
    """

    samples: Samples
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    @classmethod
    def whole(cls, samples: Samples) -> "Part":
        """All of them."""
        return cls(samples, torch.arange(len(samples)))

    def names_sha256(self) -> str:
        """SHA-256 over the names, one to a line."""
        return _sha256_of(self.samples.name(index) for index in self.indices.tolist())


def _sha256_of(names: Iterable[str]) -> str:
    return hashlib.sha256(b"\n".join(map(os.fsencode, names))).hexdigest()
