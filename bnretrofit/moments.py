"""Mean and variance per channel, gathered so that no way of batching the samples can change them.

Each sample gives its own mean and variance per channel (two passes, summed in float64); samples are then joined through
the sums of x and x^2, carried as unevaluated pairs of float64: about 106 bits, so that, while the squared mean is below
10^14 variances, the subtraction E[x^2] - E[x]^2 and the order of the additions leave no trace in the float64 result.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bnretrofit import pairs

__all__ = ["ChannelStats", "Moments", "PassMoments", "sample_moments"]

BLOCK_ELEMENTS = 1 << 20
"""Elements converted to float64 at a time: 8 MB, which the last-level cache of most processors holds."""

SMALL_SAMPLE, SMALL_SAMPLE_CHANNELS_LAST = 1 << 16, 1 << 13
"""Elements up to which samples are reduced together: a call for each costs more than converting and rearranging all. In
channels_last on a processor rearranging costs the more, up to fifteen times the calls (64 samples of 16 x 32 x 32)."""

ILL_CONDITIONED = 1e-5
"""Below this ratio of variance to squared mean the float32-rounded mean of torch's kernel would cost more than 1e-9 of
the variance (its square error is (2^-24 mean)^2), so such channels are reduced again in float64."""


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
        zero = torch.zeros_like(mean)
        square = pairs.add(pairs.two_product(mean, mean), (var, zero))
        # Both sums at once, and what is common to their terms last: each operation on small tensors costs its call.
        terms = torch.cat([mean, square[0]], dim=1), torch.cat([zero, square[1]], dim=1)
        high, low = pairs.total(terms)
        sums = pairs.product((high, low), (torch.full_like(high, float(count)), torch.zeros_like(low)))
        total, squares = zip(*(half.chunk(2) for half in sums), strict=True)
        self.total = pairs.add(self.total, total)
        self.squares = pairs.add(self.squares, squares)
        self.count += count * mean.shape[0]

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


class PassMoments:
    """Moments of many layers, to which each forward pass adds whole or not at all.

    A pass that runs out of memory in a late layer has gone through the early ones, and will again in smaller parts.

    Attributes:
        layers: What was added, by layer.
    """

    def __init__(self) -> None:
        self.layers: dict[str, Moments] = {}
        self._staged: list[tuple[str, int, Tensor, Tensor]] = []

    def stage(self, name: str, activation: Tensor, channel_dim: int) -> None:
        """Reduce a layer's activation, to be added once the pass has gone through."""
        self._staged.append((name, *sample_moments(activation, channel_dim)))

    def commit(self) -> None:
        """Add what was staged: the pass has gone through."""
        for name, count, mean, var in self._staged:
            self.layers.setdefault(name, Moments(mean.shape[1])).add_samples(count, mean, var)
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


def sample_moments(activation: Tensor, channel_dim: int) -> tuple[int, Tensor, Tensor]:
    """Moments of each sample of a batch, in float64 or as exactly.

    A sample's result depends on that sample alone: the same kernel runs over the same elements whatever the batch.

    Args:
        activation: (N, C, *S) with channel_dim 1, or (N, *S, C) with channel_dim -1; any real floating dtype.
        channel_dim: 1 or -1.

    Returns:
        Elements per sample and channel; means (N, C) and biased variances (N, C), float64, on the CPU.
    """
    samples, channels = activation.shape[0], activation.shape[channel_dim]
    count = activation.numel() // max(samples * channels, 1)
    if count == 1:
        # A copy of what is float64 already: the next layer may overwrite it before it is added.
        mean = activation.reshape(samples, channels).to(torch.float64, copy=True)
        return 1, mean.cpu(), torch.zeros_like(mean).cpu()
    last = activation if channel_dim == -1 else activation.movedim(1, -1)
    in_order = last.is_contiguous()
    calls_are_cheap = in_order and activation.device.type == "cpu"
    # Chosen by the sample's size, not the batch's: each way of reducing rounds in its own order.
    if count * channels <= (SMALL_SAMPLE_CHANNELS_LAST if calls_are_cheap else SMALL_SAMPLE):
        # Rearranged first: float64 has twice the bytes to move.
        rows = last.movedim(-1, 1).contiguous().double().view(samples * channels, count)
        mean, var = _channels_first(rows)
    elif in_order:
        mean, var = _channels_last(last.reshape(samples, count, channels))
    else:
        rows = last.movedim(-1, 1).contiguous().view(samples * channels, count)
        mean, var = _channels_first(rows)
    return count, mean.view(samples, channels).cpu(), var.view(samples, channels).cpu()


def _channels_first(rows: Tensor) -> tuple[Tensor, Tensor]:
    # One row per sample and channel. torch's update kernel sums float32 in float64, and rounds the results to float32.
    if rows.dtype not in (torch.float32, torch.float64):
        rows = rows.float()
    mean, var = (value.double() for value in torch.batch_norm_update_stats(rows.unsqueeze(0), None, None, 0.0))
    poor = (var < ILL_CONDITIONED * mean.square()).nonzero()[:, 0]
    if len(poor) and rows.dtype != torch.float64:
        for part in poor.split(max(1, BLOCK_ELEMENTS // rows.shape[1])):
            mean[part], var[part] = torch.batch_norm_update_stats(rows[part].double().unsqueeze(0), None, None, 0.0)
    return mean, var


def _channels_last(samples: Tensor) -> tuple[Tensor, Tensor]:
    # In this layout the kernel sums in the input's own dtype, so blocks that fit the cache are converted first.
    _, count, channels = samples.shape
    length = min(count, max(2, BLOCK_ELEMENTS // channels))
    # One buffer for all blocks: fresh memory of that size costs as much as the conversion.
    buffer = torch.empty(length, channels, dtype=torch.float64, device=samples.device)
    results = []
    for sample in samples:
        moments = [(len(part), *_block_moments(buffer[: len(part)].copy_(part))) for part in sample.split(length)]
        results.append(moments[0][1:] if len(moments) == 1 else _joined(moments, count))
    return torch.stack([mean for mean, _ in results]), torch.stack([var for _, var in results])


def _block_moments(block: Tensor) -> tuple[Tensor, Tensor]:
    if len(block) == 1:
        return block[0].clone(), torch.zeros_like(block[0])
    mean, var = torch.batch_norm_update_stats(block, None, None, 0.0)
    return mean, var


def _joined(moments: list[tuple[int, Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor]:
    # Chan, Golub and LeVeque 1983: the spread within the blocks plus the spread of their means.
    weights = torch.tensor([part[0] / count for part in moments], dtype=torch.float64, device=moments[0][1].device)
    means, variances = torch.stack([part[1] for part in moments]), torch.stack([part[2] for part in moments])
    mean = (weights[:, None] * means).sum(0)
    return mean, (weights[:, None] * (variances + (means - mean).square())).sum(0)
