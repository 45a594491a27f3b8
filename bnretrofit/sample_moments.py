"""One batch of a layer's output -> mean and variance per sample and channel, in two passes, summed in float64."""

import torch
from torch import Tensor

__all__ = ["sample_moments"]

BLOCK_ELEMENTS = 1 << 20
"""Elements converted to float64 at a time: 8 MB, which the last-level cache of most processors holds."""

SMALL_SAMPLE, SMALL_SAMPLE_CHANNELS_LAST = 1 << 16, 1 << 13
"""Elements up to which samples are reduced together: a call for each costs more than converting and rearranging all. In
channels_last on a processor rearranging costs the more, up to fifteen times the calls (64 samples of 16 x 32 x 32)."""

ILL_CONDITIONED = 1e-5
"""Below this ratio of variance to squared mean the float32-rounded mean of torch's kernel would cost more than 1e-9 of
the variance (its square error is (2^-24 mean)^2), so such channels are reduced again in float64."""


def sample_moments(activation: Tensor, channel_dim: int) -> tuple[int, Tensor, Tensor]:
    """Moments of each sample of a batch, in float64 or as exactly.

    A sample's result depends on that sample alone: the same kernel runs over the same elements whatever the batch. (In
    channels_last its last bits depend on the number of torch's threads, too, among which the kernel shares it out.)

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
    # Of one sample: how samples lie to each other cannot be told from a single one.
    in_order = last[:1].is_contiguous()
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
