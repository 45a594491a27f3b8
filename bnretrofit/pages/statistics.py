"""Norms, or measured statistics -> a few figures per layer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnretrofit.affine import affine_of, fixed_norm
from bnretrofit.moments import ChannelStats

__all__ = ["Figures", "LayerStatistics", "statistics_of_norm", "statistics_of_stats"]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one quantity over the channels of a layer.

    Attributes:
        least: The smallest.
        median: Half of the channels are below it.
        largest: The largest.
    """

    least: float
    median: float
    largest: float


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """What a layer puts out, over its channels.

    Attributes:
        mean: Of the channels' means.
        variance: Of their variances.
        scale: Of |weight| / sqrt(running_var + eps) of its norm; None without a norm.
    """

    mean: Figures
    variance: Figures
    scale: Figures | None = None


def statistics_of_norm(norm: nn.Module) -> LayerStatistics | None:
    """The figures of a BatchNorm's running statistics and scales; None if it keeps none."""
    try:
        fixed = fixed_norm(norm)
    except (TypeError, AttributeError):
        # One without running statistics, or a norm of another kind.
        return None
    return LayerStatistics(_figures(fixed.mean), _figures(fixed.var), _figures(affine_of(norm).scale.abs()))


def statistics_of_stats(stats: ChannelStats) -> LayerStatistics:
    """The figures of statistics that were measured."""
    return LayerStatistics(_figures(stats.mean), _figures(stats.var))


def _figures(values: Tensor) -> Figures:
    ordered = values.detach().double().cpu().flatten().sort().values
    # A rank rather than a mean of two, and NaN, which sorts last, is not hidden.
    least, median, largest = (float(ordered[place]) for place in (0, len(ordered) // 2, -1))
    return Figures(least, median if not bool(torch.isnan(ordered).any()) else float("nan"), largest)
