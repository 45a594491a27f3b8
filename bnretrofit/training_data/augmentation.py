"""What training does to an image before the network sees it. timm does the resized crop."""

import random
from dataclasses import dataclass
from typing import Any

from PIL import Image

from bnretrofit.data import eval_transform
from bnretrofit.errors import UsageError
from bnretrofit.preprocessing import Preprocessing

__all__ = ["AUGMENTATIONS", "Augmentation", "MirroredPaddedCrop", "augmentation"]

AUGMENTATIONS = ("auto", "none", "light", "timm")

LARGEST_LIGHT = 64
"""Up to this side, in pixels, images are of the kind of CIFAR, whose objects fill them: a crop takes little off."""

PADDED = 8
"""Padding is the side over this: 4 px at 32, as for CIFAR in He et al. 2015, section 4.2."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to an image in training.

    Attributes:
        kind: "none", "light" (mirror and padded crop of what evaluation would see) or "timm" (resized crop, mirror and
            colour jitter, with the settings of timm's train.py).
        transform: A `torchvision.transforms.Compose`: decoded image -> (C, H, W), float32. What it draws, it draws from
            the generators of Python, NumPy and torch.
    """

    kind: str
    transform: Any


def augmentation(aug: str, preprocessing: Preprocessing, stored: tuple[int, int] | None = None) -> Augmentation:
    """Choose by name, or by the size of the images.

    Args:
        aug: One of `AUGMENTATIONS`. "auto" is "light" up to a side of 64 px, "timm" above.
        preprocessing: The network's.
        stored: Height and width of the images in pixels, for a network that takes them at their stored size.

    Raises:
        UsageError: There is no such augmentation, or the size is needed and not known.
    """
    if aug not in AUGMENTATIONS:
        raise UsageError("there is no such augmentation", where=aug, remedy=f"use one of {', '.join(AUGMENTATIONS)}")
    _, height, width = preprocessing.input_size
    size = stored if height is None or width is None else (height, width)
    if size is None and aug in {"auto", "timm"}:
        raise UsageError(
            "the augmentation depends on the size of the images, which is not known",
            remedy="pass --img-size, --aug light or --aug none",
        )
    kind = aug
    if size is not None and aug == "auto":
        kind = "light" if max(size) <= LARGEST_LIGHT else "timm"
    if size is not None and kind == "timm":
        return Augmentation(kind, _resized_crop(preprocessing, size))
    evaluated = eval_transform(preprocessing)
    return Augmentation(kind, evaluated if kind == "none" else _mirrored_and_moved(evaluated.transforms))


class MirroredPaddedCrop:
    """Image -> the same size: mirrored or not, and moved by up to an eighth of it, with black coming in."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Draw how, with Python's generator, and do it."""
        across, down = (max(1, side // PADDED) for side in image.size)
        left, top = random.randint(-across, across), random.randint(-down, down)  # noqa: S311 - no secret
        # Pillow's crop fills what lies outside with black.
        moved = image.crop((left, top, left + image.width, top + image.height))
        return moved.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else moved  # noqa: S311


def _mirrored_and_moved(steps: list[Any]) -> Any:
    from torchvision.transforms import Compose, ToTensor

    numbers = next(place for place, step in enumerate(steps) if isinstance(step, ToTensor))
    return Compose([*steps[:numbers], MirroredPaddedCrop(), *steps[numbers:]])


def _resized_crop(preprocessing: Preprocessing, size: tuple[int, int]) -> Any:
    from timm.data.transforms_factory import create_transform

    channels = preprocessing.input_size[0]
    mean, std = (
        tuple(values) * (channels if len(values) == 1 else 1) for values in (preprocessing.mean, preprocessing.std)
    )
    # Bilinear or bicubic by chance is what timm's train.py trains with unless told otherwise.
    return create_transform(input_size=(channels, *size), is_training=True, interpolation="random", mean=mean, std=std)
