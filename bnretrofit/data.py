"""The images of a folder -> batches. timm does the transforms."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bnretrofit.decoding import decode
from bnretrofit.errors import InputRejectedError
from bnretrofit.image_files import ImageFiles, find_images
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.workers import begin_worker

__all__ = ["ImageBatches", "ImageFiles", "eval_transform", "find_images"]


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
    def readable(self) -> ImageFiles:
        """The images that could be read, after a pass or before it if all can."""
        return self.files.taken(index for index in range(len(self.files.paths)) if index not in self._bad_indices)

    @property
    def labels(self) -> list[int]:
        """Labels of the images that could be read."""
        return list(self.readable.labels)

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
            worker_init_fn=begin_worker,
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
        self.bad.append(f"{path.relative_to(self.files.root).as_posix()}: {reason}")
        count = len(self.bad) + len(self.files.others)
        if count > self.max_bad_images:
            raise InputRejectedError(
                "an image cannot be read" if count == 1 else f"{count} files are no readable images, this one the last",
                where=str(path),
                why=reason,
                remedy="remove it, or allow more with --max-bad-images",
            )


class _Decoded(Dataset[tuple[int, Tensor | str]]):
    """(index, image as a tensor), or (index, the reason why it cannot be read)."""

    def __init__(self, paths: tuple[Path, ...], preprocessing: Preprocessing) -> None:
        self.paths = paths
        self.mode = "L" if preprocessing.input_size[0] == 1 else "RGB"
        self.transform = eval_transform(preprocessing)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            image = decode(self.paths[index], self.mode)
        except InputRejectedError as error:
            return index, str(error.why)
        return index, self.transform(image)


def eval_transform(preprocessing: Preprocessing) -> Any:
    """The preprocessing as a `torchvision.transforms.Compose`: decoded image -> (C, H, W), float32."""
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
