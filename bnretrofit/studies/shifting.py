"""Test images as another camera or another day would have them: brighter, blurred, noisy."""

import torch
from torch import Tensor
from torch.nn import functional

from bnretrofit.studies.images import Images, Labelled
from bnretrofit.training_data.seeding import generator

__all__ = ["SHIFTS", "shifted"]

SHIFTS = ("as they are", "brighter", "blurred", "noisy")

BRIGHTER, NOISE = 0.25, 0.15
"""In units of a pixel's range, 0 to 1."""

BLUR = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
"""A binomial kernel, of standard deviation one pixel, applied twice over."""


def shifted(name: str, images: Images) -> Labelled:
    """The images to judge with, with one shift; a pixel stays within its range.

    Args:
        name: One of `SHIFTS`.
        images: Those, normalised.
    """
    pixels, labels = images.test
    mean, unit = images.mean.view(1, -1, 1, 1), images.deviation.view(1, -1, 1, 1)
    bare = pixels * unit + mean
    if name == "brighter":
        moved = bare + BRIGHTER
    elif name == "noisy":
        moved = bare + NOISE * torch.randn(bare.shape, generator=generator("noise"))
    elif name == "blurred":
        moved = _blurred(_blurred(bare))
    else:
        return images.test
    return (moved.clamp(0, 1) - mean) / unit, labels


def _blurred(pixels: Tensor) -> Tensor:
    channels = pixels.shape[1]
    kernel = torch.outer(BLUR, BLUR).expand(channels, 1, -1, -1)
    return functional.conv2d(functional.pad(pixels, (2, 2, 2, 2), mode="replicate"), kernel, groups=channels)
