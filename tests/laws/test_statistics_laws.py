"""Statistics do not depend on how the samples are batched, ordered or spread over ranks: not in the last bit."""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bnretrofit import ChannelStats
from bnretrofit import sample_moments as reduction
from bnretrofit.moments import Moments
from bnretrofit.sample_moments import sample_moments


@dataclass(frozen=True)
class Recorded:
    """Activations of a layer over a calibration set."""

    samples: int
    channels: int
    positions: int
    layout: str
    mean: float
    spread: float
    dtype: torch.dtype
    seed: int
    large: bool
    block: int

    def thresholds(self) -> AbstractContextManager[object]:
        """Have all samples taken for small ones, which are reduced together, or for large ones, in blocks."""
        small = 0 if self.large else 1 << 16
        return patch.multiple(
            reduction, SMALL_SAMPLE=small, SMALL_SAMPLE_CHANNELS_LAST=small, BLOCK_ELEMENTS=self.block
        )

    def activations(self) -> tuple[Tensor, int]:
        """(N, C, *S) or (N, *S, C), and where its channels are."""
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.randn(self.samples, self.channels, self.positions, 2, generator=generator, dtype=torch.float64)
        scale = 10.0 ** torch.randint(-2, 3, (self.samples, 1, 1, 1), generator=generator).double()
        x = (x * self.spread * scale + self.mean).to(self.dtype)
        if self.layout == "channels_last":
            return x.contiguous(memory_format=torch.channels_last), 1
        return (x, 1) if self.layout == "channels_first" else (x.permute(0, 2, 3, 1).contiguous(), -1)


RECORDED = st.builds(
    Recorded,
    samples=st.integers(1, 24),
    channels=st.integers(1, 5),
    positions=st.integers(1, 6),
    layout=st.sampled_from(["channels_first", "channels_last", "tokens"]),
    mean=st.sampled_from([0.0, 1.0, -3.7, 1000.0, 1e4]),
    # With a spread of 0.01 about 1e6 float64 values would need more than the 106 bits that the sums carry.
    spread=st.sampled_from([0.01, 1.0, 50.0]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**16),
    large=st.booleans(),
    block=st.sampled_from([1, 12, 1 << 20]),
)


def statistics(parts: list[Tensor], channels: int, channel_dim: int) -> ChannelStats:
    found = Moments(channels)
    for part in parts:
        found.add_samples(*sample_moments(part, channel_dim))
    return found.stats()


def assert_same(a: ChannelStats, b: ChannelStats) -> None:
    assert a.count == b.count
    assert torch.equal(a.mean, b.mean), (a.mean - b.mean).abs().max()
    assert torch.equal(a.var, b.var), (a.var - b.var).abs().max()


@settings(max_examples=60)
@given(recorded=RECORDED, data=st.data())
def test_any_batching_in_any_order_gives_the_same_bits(recorded: Recorded, data: st.DataObject) -> None:
    assume(recorded.dtype != torch.float16 or abs(recorded.mean) < 1e5)
    x, dim = recorded.activations()
    order = data.draw(st.permutations(range(len(x))), label="order")
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(x) - 1))), label="cuts"))
    shuffled = x[torch.tensor(order)]
    if recorded.layout == "channels_last":
        shuffled = shuffled.contiguous(memory_format=torch.channels_last)
    parts = list(shuffled.tensor_split(torch.tensor(cuts))) if cuts else [shuffled]
    with recorded.thresholds():
        whole = statistics([x], recorded.channels, dim)
        assert_same(statistics([part for part in parts if len(part)], recorded.channels, dim), whole)


@settings(max_examples=50)
@given(recorded=RECORDED, ranks=st.lists(st.integers(0, 3), min_size=24, max_size=24))
def test_ranks_that_merge_give_the_same_bits_as_one(recorded: Recorded, ranks: list[int]) -> None:
    assume(recorded.dtype != torch.float16 or abs(recorded.mean) < 1e5)
    x, dim = recorded.activations()
    with recorded.thresholds():
        count, mean, var = sample_moments(x, dim)
        whole = statistics([x], recorded.channels, dim)
    parts = [Moments(recorded.channels) for _ in range(4)]
    for index in range(len(x)):
        parts[ranks[index]].add_samples(count, mean[index : index + 1], var[index : index + 1])
    joined = parts[3]
    for part in parts[:3]:
        joined.merge(part)
    assert_same(joined.stats(), whole)


@settings(max_examples=50)
@given(recorded=RECORDED)
def test_the_statistics_are_those_of_float64(recorded: Recorded) -> None:
    assume(recorded.dtype != torch.float16 or abs(recorded.mean) < 1e5)
    x, dim = recorded.activations()
    rows = x.double().movedim(dim, 0).flatten(1)
    found = statistics([x], recorded.channels, dim)
    for channel, row in enumerate(rows.tolist()):
        mean = math.fsum(row) / len(row)
        var = math.fsum((value - mean) ** 2 for value in row) / len(row)
        largest = max(map(abs, row))
        assert found.mean[channel].item() == pytest.approx(mean, rel=1e-6, abs=1e-7 * largest)
        assert found.var[channel].item() == pytest.approx(var, rel=1e-6, abs=1e-12 * largest**2)
