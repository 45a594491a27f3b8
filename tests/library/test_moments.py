"""Moments of samples: as exact as float64 in every layout and dtype, and joined in any order."""

import pytest
import torch
from torch import Tensor

from bnretrofit import moments
from bnretrofit import sample_moments as reduction
from bnretrofit.moments import ChannelStats, Moments, PassMoments
from bnretrofit.sample_moments import sample_moments


def laid_out(layout: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, int]:
    x = (torch.randn(4, 5, 6, 7) * 3 + 2).to(dtype)
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last), 1
    if layout == "strided":
        return x[:, :, ::2, 1:], 1
    if layout == "cut":
        return x.contiguous(memory_format=torch.channels_last)[:, :, :4], 1
    if layout == "tokens":
        return x.flatten(2).movedim(1, -1).contiguous(), -1
    return x, 1


LAYOUTS = ("contiguous", "channels_last", "strided", "cut", "tokens")


@pytest.fixture(params=["together", "one by one"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small samples are reduced together, large ones one by one; here all of them are taken for small, or for large."""
    for name in ("SMALL_SAMPLE", "SMALL_SAMPLE_CHANNELS_LAST"):
        monkeypatch.setattr(reduction, name, 1 << 16 if request.param == "together" else 0)


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_sample_has_its_own_moments(layout: str, dtype: torch.dtype) -> None:
    x, channel_dim = laid_out(layout, dtype)
    count, mean, var = sample_moments(x, channel_dim)
    rows = x.double().movedim(channel_dim, 1).flatten(2)
    assert count == rows.shape[2]
    assert mean.dtype == var.dtype == torch.float64
    torch.testing.assert_close(mean, rows.mean(2), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(var, rows.var(2, correction=0), rtol=1e-6, atol=0)


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sample_s_moments_are_the_same_in_any_batch(layout: str) -> None:
    x, channel_dim = laid_out(layout)
    _, mean, var = sample_moments(x, channel_dim)
    for index in range(len(x)):
        _, alone_mean, alone_var = sample_moments(x[index : index + 1], channel_dim)
        assert torch.equal(alone_mean[0], mean[index])
        assert torch.equal(alone_var[0], var[index])


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_statistics_of_a_far_mean_and_a_small_spread_are_those_of_float64(layout: str) -> None:
    x, channel_dim = laid_out(layout)
    x = 1000 + (x - 2) / 3 * 0.01
    found = Moments(5)
    found.add_samples(*sample_moments(x, channel_dim))
    rows = x.double().movedim(channel_dim, 0).flatten(1)
    torch.testing.assert_close(found.stats().mean, rows.mean(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.stats().var, rows.var(1, correction=0), rtol=1e-6, atol=0)
    # In float32, or as E[x^2] - E[x]^2, next to nothing of the variance is left.
    naive = (x.square().movedim(channel_dim, 0).flatten(1).mean(1) - rows.float().mean(1).square()).double()
    assert bool((naive - found.stats().var).abs().max() > 1e-4)


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_long_rows_are_reduced_in_blocks_with_the_same_result(monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    x, channel_dim = laid_out(layout)
    x = x + 5000
    _, mean, var = sample_moments(x, channel_dim)
    monkeypatch.setattr(reduction, "BLOCK_ELEMENTS", 25)
    _, block_mean, block_var = sample_moments(x, channel_dim)
    torch.testing.assert_close(block_mean, mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(block_var, var, rtol=1e-9, atol=0)


def test_one_value_per_sample_and_channel_has_no_spread_of_its_own() -> None:
    x = torch.randn(6, 3)
    count, mean, var = sample_moments(x, 1)
    assert (count, bool(var.any())) == (1, False)
    assert torch.equal(mean, x.double())
    found = Moments(3)
    found.add_samples(count, mean, var)
    torch.testing.assert_close(found.stats().var, x.double().var(0, correction=0), rtol=1e-12, atol=0)
    assert found.stats().count == 6


def test_merged_parts_are_the_whole() -> None:
    x = torch.randn(12, 3, 4, 4) * 7 - 3
    count, mean, var = sample_moments(x, 1)
    whole, left, right = Moments(3), Moments(3), Moments(3)
    whole.add_samples(count, mean, var)
    left.add_samples(count, mean[:5], var[:5])
    right.add_samples(count, mean[5:], var[5:])
    left.merge(right)
    assert left.stats().count == whole.stats().count == 12 * 16
    assert torch.equal(left.stats().mean, whole.stats().mean)
    assert torch.equal(left.stats().var, whole.stats().var)


def test_samples_of_other_sizes_weigh_by_their_elements() -> None:
    small, large = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 9, 9) + 4
    found = Moments(3)
    for x in (small, large):
        found.add_samples(*sample_moments(x, 1))
    rows = torch.cat([small.movedim(1, 0).flatten(1), large.movedim(1, 0).flatten(1)], 1).double()
    torch.testing.assert_close(found.stats().mean, rows.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.stats().var, rows.var(1, correction=0), rtol=1e-6, atol=0)


def test_the_variance_is_biased_and_running_var_gets_the_unbiased_one() -> None:
    stats = ChannelStats(5, torch.zeros(1), torch.tensor([4.0]))
    assert stats.unbiased_var.item() == 5.0
    assert ChannelStats(1, torch.zeros(1), torch.zeros(1)).unbiased_var.item() == 0.0


def test_a_value_that_is_not_finite_shows_in_the_statistics() -> None:
    x = torch.randn(2, 3, 4, 4)
    x[1, 2, 0, 0] = torch.nan
    found = Moments(3)
    found.add_samples(*sample_moments(x, 1))
    assert torch.isnan(found.stats().mean).tolist() == [False, False, True]


def staged(layers: dict[str, list[Tensor]]) -> PassMoments:
    found = PassMoments()
    for name, outputs in layers.items():
        for output in outputs:
            found.stage(name, output, 1)
    found.commit()
    return found


@pytest.mark.parametrize("elements", [1, 20, 1 << 15])
def test_layers_that_are_joined_side_by_side_are_those_that_are_joined_alone(
    monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    monkeypatch.setattr(moments, "JOINED_ELEMENTS", elements)
    layers = {
        "wide": [torch.randn(3, 8, 4, 4)],
        "narrow, called twice": [torch.randn(3, 2, 5, 5) + 3, torch.randn(3, 2, 2, 2)],
        "of more samples": [torch.randn(7, 4)],
        "last": [torch.randn(3, 5)],
    }
    found = staged(layers).stats()
    assert list(found) == list(layers)
    for name, outputs in layers.items():
        alone = Moments(outputs[0].shape[1])
        for output in outputs:
            alone.add_samples(*sample_moments(output, 1))
        assert found[name].count == alone.stats().count
        assert torch.equal(found[name].mean, alone.stats().mean)
        assert torch.equal(found[name].var, alone.stats().var)


def test_a_value_that_is_not_finite_stays_in_its_layer() -> None:
    spoilt = torch.randn(3, 2, 4, 4)
    spoilt[0, 1, 0, 0] = torch.inf
    found = staged({"first": [torch.randn(3, 4, 2, 2)], "spoilt": [spoilt], "last": [torch.randn(3, 4, 2, 2)]}).stats()
    assert {name: bool(stats.var.isfinite().all()) for name, stats in found.items()} == {
        "first": True,
        "spoilt": False,
        "last": True,
    }
