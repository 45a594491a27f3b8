"""The network whose growth is measured: a chain of equal 3x3 convolutions, and a last dense layer."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.fold_networks import draw_norms
from benchmarks.growth_points import Point

__all__ = ["batches", "chain"]


def chain(depth: int, width: int, *, norms: bool = False) -> nn.Module:
    """As many convolutions as `depth`, all alike but the first, so that twice the depth is twice the work.

    Args:
        depth: Convolutions, each followed by a ReLU.
        width: Channels of each.
        norms: With a BatchNorm after each, whose statistics, scale and shift do something.
    """
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in pairwise([3, *[width] * depth]):
        conv = nn.Conv2d(before, after, 3, padding=1)
        # A hundred layers of torch's own initialisation end in denormal numbers, which take many times as long.
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        layers += [conv, *([nn.BatchNorm2d(after)] if norms else []), nn.ReLU(inplace=True)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)).eval()
    draw_norms(model)
    return model


def batches(point: Point) -> list[Tensor]:
    """Seeded noise, in batches."""
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(point.images, 3, point.pixels, point.pixels, generator=generator).split(point.batch_size))
