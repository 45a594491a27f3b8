"""Test images as another camera or another day would have them: brighter, blurred, noisy."""

import torch
from torch import Tensor
from torch.nn import functional

from bnretrofit.training_data.seeding import generator

__all__ = ["SHIFTS", "shifted"]

SHIFTS = ("as they are", "brighter", "blurred", "noisy")

BRIGHTER, NOISE = 0.25, 0.15
"""In units of a pixel's range, 0 to 1."""

BLUR = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
"""A binomial kernel, of standard deviation one pixel, applied twice over."""


def shifted(name: str, pixels: Tensor, deviation: Tensor) -> Tensor:
    """Images with one shift.

    Args:
        name: One of `SHIFTS`.
        pixels: Normalised images (N, 3, H, W).
        deviation: By what each channel was divided, (3,).
    """
    unit = 1 / deviation.view(1, -1, 1, 1)
    if name == "brighter":
        return pixels + BRIGHTER * unit
    if name == "noisy":
        return pixels + NOISE * unit * torch.randn(pixels.shape, generator=generator("noise"))
    return _blurred(_blurred(pixels)) if name == "blurred" else pixels


def _blurred(pixels: Tensor) -> Tensor:
    channels = pixels.shape[1]
    kernel = torch.outer(BLUR, BLUR).expand(channels, 1, -1, -1)
    return functional.conv2d(functional.pad(pixels, (2, 2, 2, 2), mode="replicate"), kernel, groups=channels)
