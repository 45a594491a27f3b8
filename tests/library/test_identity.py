"""BatchNorm parameters that the running kernel treats as the identity: asked of it, and proved on it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import ChannelStats, identity
from bnretrofit.errors import InputRejectedError
from bnretrofit.identity import (
    batch_norm_kernel,
    effective,
    identity_channels,
    identity_parameters,
    kernel_is_exact,
    set_identity,
)
from bnretrofit.norms import ChannelsLastBatchNorm1d
from tests.library.observing import randomised

CPU = torch.device("cpu")


def statistics(channels: int, scale: float = 1.0) -> ChannelStats:
    """Means of both signs over ten decades; variances from 0 to 100, a tenth of them 0 or next to it."""
    mean = torch.randn(channels).double() * 10.0 ** torch.randint(-5, 5, (channels,)).double()
    var = torch.rand(channels).double() * 10.0 ** torch.randint(-12, 3, (channels,)).double() * scale
    var[: channels // 20] = 0.0
    var[channels // 20 : channels // 10] = 1e-12
    return ChannelStats(1000, mean, var)


def identity_norm(channels: int = 512, norm: Any = nn.BatchNorm2d, **options: Any) -> Any:
    found = norm(channels, **options).eval()
    assert bool(set_identity(found, statistics(channels)).all())
    return found


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 1e-8])
def test_a_hundred_thousand_channels_are_all_exact(eps: float) -> None:
    stats = statistics(100_000)
    found = identity_parameters(stats.mean, stats.var, eps, dtype=torch.float32, device=CPU)
    assert bool(found.exact.all())
    x = torch.randn(3, 100_000) * 10.0 ** torch.randint(-30, 30, (3, 100_000))
    assert torch.equal(batch_norm_kernel(x, found.mean, found.var, found.weight, found.bias, eps), x)


def test_the_plain_recipe_misses_what_the_search_finds() -> None:
    # Else the test above shows nothing.
    stats = statistics(10_000)
    mean, var = stats.mean.float(), stats.var.float()
    x = torch.randn(3, 10_000)
    y = batch_norm_kernel(x, mean, var, (var.double() + 1e-5).sqrt().float(), mean, 1e-5)
    assert 0.1 < float((x != y).any(0).float().mean()) < 0.9


def test_what_is_found_stays_next_to_the_statistics() -> None:
    stats = statistics(10_000)
    found = identity_parameters(stats.mean, stats.var, 1e-5, dtype=torch.float32, device=CPU)
    assert torch.equal(found.mean, stats.mean.float())
    assert torch.equal(found.bias, found.mean)
    torch.testing.assert_close(found.var.double() + 1e-5, stats.var + 1e-5, rtol=64 * 1.2e-7, atol=0)
    torch.testing.assert_close(found.weight.double(), (stats.var + 1e-5).sqrt(), rtol=64 * 1.2e-7, atol=0)
    assert bool((found.var >= 0).all())


def test_float64_norms_are_exact_too() -> None:
    norm = identity_norm(2000, nn.BatchNorm1d, dtype=torch.float64)
    x = torch.randn(7, 2000).double()
    assert torch.equal(norm(x), x)


@pytest.mark.parametrize("samples", [1, 7, 64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_identity_holds_for_every_batch_size_and_layout(samples: int, layout: torch.memory_format) -> None:
    norm = identity_norm(64)
    x = (torch.randn(samples, 64, 5, 3) * 100).to(memory_format=layout)
    assert torch.equal(norm(x), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_float32_parameters_are_the_identity_on_half_precision_inputs(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    norm = identity_norm(64)
    x = (torch.randn(5, 64, 5, 3) * 10).to(dtype).to(memory_format=layout)
    y = norm(x)
    assert y.dtype == dtype
    assert torch.equal(y, x)


def test_the_identity_holds_under_autocast() -> None:
    conv, norm, x = nn.Conv2d(3, 64, 3), identity_norm(64), torch.randn(4, 3, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
        assert y.dtype == torch.bfloat16
        assert torch.equal(norm(y), y)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d, (4, 16)),
        (nn.BatchNorm1d, (4, 16, 5)),
        (nn.BatchNorm3d, (2, 16, 3, 2, 2)),
        (ChannelsLastBatchNorm1d, (4, 5, 16)),
    ],
)
def test_every_norm_class_is_the_identity(norm: Any, shape: tuple[int, ...]) -> None:
    found = identity_norm(16, norm)
    x = torch.randn(shape)
    assert torch.equal(found(x), x)
    assert bool(identity_channels(found).all())


def test_the_running_variance_is_the_unbiased_one() -> None:
    norm = nn.BatchNorm1d(3).eval()
    set_identity(norm, ChannelStats(2, torch.zeros(3).double(), torch.tensor([1.0, 2.0, 4.0]).double()))
    torch.testing.assert_close(norm.running_var, torch.tensor([2.0, 4.0, 8.0]))


def test_channels_that_are_not_the_identity_are_seen() -> None:
    norm = identity_norm(100)
    with torch.no_grad():
        norm.weight[3] *= 1 + 2e-7
        norm.bias[7] += 1e-3 + norm.bias[7].abs() * 1e-6
        norm.running_var[11] *= 1.01
    assert (~identity_channels(norm)).nonzero()[:, 0].tolist() == [3, 7, 11]


def test_the_effective_map_is_read_off_the_kernel() -> None:
    norm: Any = randomised(nn.BatchNorm2d(6, affine=False))
    factor, summand = effective(norm)
    x = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(norm(x), x * factor[:, None, None] + summand[:, None, None])


def two_step(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """What other devices compute: (x - mean) * s + bias, which loses a small x beside a large mean."""
    return (x - mean) * (weight * torch.rsqrt(var + eps)) + bias


def test_a_kernel_that_subtracts_first_is_never_called_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel_is_exact(nn.BatchNorm2d(2))
    assert kernel_is_exact(nn.BatchNorm2d(2).double())
    monkeypatch.setattr(identity, "batch_norm_kernel", two_step)
    norm = nn.BatchNorm2d(500).eval()
    assert not kernel_is_exact(norm)
    assert not bool(set_identity(norm, statistics(500)).any())


def test_a_kernel_that_is_never_one_ends_the_search_with_the_nearest_parameters() -> None:
    calls = 0

    def never(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        nonlocal calls
        calls += 1
        return two_step(x, mean, var, weight, bias, eps) * 1.001

    stats = statistics(50)
    found = identity_parameters(stats.mean, stats.var, 1e-5, dtype=torch.float32, device=CPU, kernel=never)
    assert not bool(found.exact.any())
    assert calls < 1000
    assert torch.equal(found.var, stats.var.float())
    torch.testing.assert_close(found.weight.double(), (found.var.double() + 1e-5).sqrt(), rtol=1e-7, atol=0)


@pytest.mark.parametrize(("mean", "var"), [(1e39, 1.0), (0.0, 1e39), (float("nan"), 1.0)])
def test_statistics_that_the_dtype_cannot_hold_are_refused(mean: float, var: float) -> None:
    stats = ChannelStats(9, torch.tensor([mean]).double(), torch.tensor([var]).double())
    with pytest.raises(InputRejectedError, match="not finite"):
        set_identity(nn.BatchNorm1d(1), stats)
