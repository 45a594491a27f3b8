"""Mean and variance per channel, gathered so that no way of batching the samples can change them.

Each sample gives its own mean and variance per channel (`sample_moments`); samples are then joined through the sums of
x and x^2, carried as unevaluated pairs of float64: about 106 bits, so that, while the squared mean is below 10^14
variances, the subtraction E[x^2] - E[x]^2 and the order of the additions leave no trace in the float64 result.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bnretrofit import pairs
from bnretrofit.sample_moments import sample_moments

__all__ = ["ChannelStats", "Moments", "PassMoments"]

JOINED_ELEMENTS = 1 << 15
"""Means and variances of samples that are joined at a time; a dozen tensors of as many float64 come of them."""


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """Statistics of one layer's output over a calibration set.

    Attributes:
        count: Number of elements per channel.
        mean: (C,), float64.
        var: (C,), float64, biased: divided by `count`.
    """

    count: int
    mean: Tensor
    var: Tensor

    @property
    def unbiased_var(self) -> Tensor:
        """(C,), float64, divided by count - 1: what torch keeps as running_var."""
        return self.var * (self.count / max(self.count - 1, 1))


class Moments:
    """Sums of x and x^2 per channel, each an unevaluated pair of float64 tensors of shape (C,)."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        zero = torch.zeros(channels, dtype=torch.float64)
        self.total = (zero, zero)
        self.squares = (zero, zero)

    def add_samples(self, count: int, mean: Tensor, var: Tensor) -> None:
        """Add samples, each given by its own moments.

        Args:
            count: Elements per sample and channel.
            mean: (samples, C), float64.
            var: (samples, C), float64, biased.
        """
        self.add_sums(count, mean.shape[0], *_sums(mean, var))

    def add_sums(self, count: int, samples: int, means: pairs.Pair, squares: pairs.Pair) -> None:
        """Add samples, given by their sums.

        Args:
            count: Elements per sample and channel.
            samples: How many there are.
            means: (C,) each: the sum of their means.
            squares: The same of their mean squares.
        """
        weight = torch.full_like(means[0], float(count)), torch.zeros_like(means[0])
        self.total = pairs.add(self.total, pairs.product(means, weight))
        self.squares = pairs.add(self.squares, pairs.product(squares, weight))
        self.count += count * samples

    def merge(self, other: "Moments") -> None:
        """Add what `other` has gathered, from another part of the samples."""
        self.count += other.count
        self.total = pairs.add(self.total, other.total)
        self.squares = pairs.add(self.squares, other.squares)

    def stats(self) -> ChannelStats:
        """The statistics of all samples added so far."""
        count = torch.full_like(self.total[0], float(max(self.count, 1)))
        mean = self.total[0] / count
        # The mean in twice the precision: its quotient, and the quotient of what the first one left over.
        rest = pairs.add(self.total, pairs.negated(pairs.two_product(mean, count)))
        mean_pair = pairs.two_sum(mean, (rest[0] + rest[1]) / count)
        deviations = pairs.add(self.squares, pairs.negated(pairs.product(self.total, mean_pair)))
        var = ((deviations[0] + deviations[1]) / count).clamp_min(0.0)
        return ChannelStats(self.count, mean_pair[0].clone(), var)


@dataclass(frozen=True, slots=True)
class _Staged:
    """A layer's name, and what `sample_moments` gives."""

    name: str
    count: int
    mean: Tensor
    var: Tensor


class PassMoments:
    """Moments of many layers, to which each forward pass adds whole or not at all.

    A pass that runs out of memory in a late layer has gone through the early ones, and will again in smaller parts.

    Attributes:
        layers: What was added, by layer.
    """

    def __init__(self) -> None:
        self.layers: dict[str, Moments] = {}
        self._staged: list[_Staged] = []

    def stage(self, name: str, activation: Tensor, channel_dim: int) -> None:
        """Reduce a layer's activation, to be added once the pass has gone through."""
        self._staged.append(_Staged(name, *sample_moments(activation, channel_dim)))

    def commit(self) -> None:
        """Add what was staged: the pass has gone through."""
        # Layers side by side: on small tensors an operation costs its call, whatever their size.
        for layers in _side_by_side(self._staged):
            mean, var = (torch.cat([getattr(each, what) for each in layers], dim=1) for what in ("mean", "var"))
            means, squares = _sums(mean, var)
            widths = [each.mean.shape[1] for each in layers]
            parts = zip(*(part.split(widths) for part in (*means, *squares)), strict=True)
            for each, (total, low, square, square_low) in zip(layers, parts, strict=True):
                moments = self.layers.setdefault(each.name, Moments(each.mean.shape[1]))
                moments.add_sums(each.count, len(each.mean), (total, low), (square, square_low))
        self._staged.clear()

    def discard(self) -> None:
        """Forget what was staged: the pass has failed."""
        self._staged.clear()

    def merge(self, other: "PassMoments") -> None:
        """Add what `other` has gathered, from another part of the samples."""
        for name, gathered in other.layers.items():
            self.layers.setdefault(name, Moments(len(gathered.total[0]))).merge(gathered)

    def stats(self) -> dict[str, ChannelStats]:
        """The statistics of every layer that something passed through."""
        return {name: gathered.stats() for name, gathered in self.layers.items()}


def _side_by_side(staged: list[_Staged]) -> Iterator[list[_Staged]]:
    """Layers in order, in runs that have as many samples; of no more elements than the cache holds, or of one layer."""
    run: list[_Staged] = []
    elements = 0
    for each in staged:
        if run and (len(each.mean) != len(run[0].mean) or elements + each.mean.numel() > JOINED_ELEMENTS):
            yield run
            run, elements = [], 0
        run.append(each)
        elements += each.mean.numel()
    if run:
        yield run


def _sums(mean: Tensor, var: Tensor) -> tuple[pairs.Pair, pairs.Pair]:
    """Sums over the first dimension of the means, and of the mean squares var + mean^2."""
    zero = torch.zeros_like(mean)
    square = pairs.add(pairs.two_product(mean, mean), (var, zero))
    high, low = pairs.total((torch.cat([mean, square[0]], dim=1), torch.cat([zero, square[1]], dim=1)))
    (means, squares), (means_low, squares_low) = high.chunk(2), low.chunk(2)
    return (means, means_low), (squares, squares_low)
