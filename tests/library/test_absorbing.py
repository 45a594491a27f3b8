"""Per-channel maps, and their absorption into weights of every layout."""

from typing import Any

import pytest
import torch
from torch import nn

from bnretrofit import absorbing
from bnretrofit.absorbing import absorb
from bnretrofit.affine import Affine, affine_of
from bnretrofit.layers import kind_of
from tests.library.networks import CONVS, conv_then, input_of
from tests.library.observing import part, randomised


def per_channel(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, *[1] * (like.dim() - 2))


@pytest.mark.parametrize("with_weights", [True, False])
def test_the_map_of_a_norm_is_what_the_norm_computes(with_weights: bool) -> None:
    norm: Any = randomised(nn.BatchNorm2d(5, eps=0.01, affine=with_weights).double())
    x = torch.randn(3, 5, 2, 2, dtype=torch.float64)
    found = affine_of(norm)
    torch.testing.assert_close(norm(x), x * per_channel(found.scale, x) + per_channel(found.shift, x))
    assert found.scale.dtype == found.shift.dtype == torch.float64


def test_the_map_is_computed_in_float64_also_of_a_float32_norm() -> None:
    norm: Any = randomised(nn.BatchNorm1d(64))
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    found = affine_of(norm)
    assert torch.equal(found.scale, scale)
    assert torch.equal(found.shift, norm.bias.double() - norm.running_mean.double() * scale)


def test_a_norm_without_running_statistics_has_no_map() -> None:
    with pytest.raises(TypeError, match="without running statistics"):
        affine_of(nn.BatchNorm2d(3, track_running_stats=False))


def test_kept_channels_become_the_exact_identity_and_no_others() -> None:
    found = Affine(torch.tensor([2.0, 3.0]).double(), torch.tensor([4.0, 5.0]).double()).where(
        torch.tensor([True, False])
    )
    assert found.scale.tolist() == [1.0, 3.0]
    assert found.shift.tolist() == [0.0, 5.0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", CONVS)
def test_a_convolution_with_the_map_absorbed_is_the_convolution_and_then_the_map(
    kind: str, groups: int, bias: bool
) -> None:
    layer: Any = part(conv_then(kind, groups, bias=bias).double(), "0")
    change = Affine(torch.randn(6).double(), torch.randn(6).double())
    x = input_of(kind).double()
    y = layer(x)
    row = kind_of(layer)
    assert row is not None
    weight, new_bias = absorb(layer.weight, layer.bias, change, transposed=row.transposed, groups=groups)
    assert new_bias is not None
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(new_bias)
    torch.testing.assert_close(layer(x), y * per_channel(change.scale, y) + per_channel(change.shift, y))


def test_a_dense_layer_takes_the_map_along_its_outputs() -> None:
    layer = nn.Linear(4, 6).double()
    change = Affine(torch.randn(6).double(), torch.randn(6).double())
    weight, bias = absorb(layer.weight, layer.bias, change, transposed=False, groups=1)
    x = torch.randn(3, 4).double()
    torch.testing.assert_close(nn.functional.linear(x, weight, bias), layer(x) * change.scale + change.shift)


def test_weights_are_rounded_once_to_their_own_dtype() -> None:
    change = Affine(torch.rand(6).double(), torch.randn(6).double())
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        weight, bias = torch.randn(6, 4).to(dtype), torch.randn(6).to(dtype)
        new_weight, new_bias = absorb(weight, bias, change, transposed=False, groups=1)
        assert new_bias is not None
        assert torch.equal(new_weight, (weight.double() * change.scale[:, None]).to(dtype))
        torch.testing.assert_close(new_bias, (bias.double() * change.scale + change.shift).to(dtype), rtol=0, atol=0)


def test_channels_of_the_identity_keep_their_bits() -> None:
    keep = torch.tensor([True, False] * 50)
    weight, bias = torch.randn(100, 7), torch.randn(100)
    change = Affine(torch.full((100,), 1.1).double(), torch.full((100,), 0.3).double()).where(keep)
    new_weight, new_bias = absorb(weight, bias, change, transposed=False, groups=1)
    assert new_bias is not None
    assert torch.equal(new_weight[keep], weight[keep])
    assert torch.equal(new_bias[keep], bias[keep])
    assert not (new_weight[~keep] == weight[~keep]).all(1).any()
    assert not (new_bias[~keep] == bias[~keep]).any()


def test_a_layer_without_bias_gains_one_only_for_a_shift() -> None:
    weight, ones = torch.randn(2, 3), torch.ones(2).double()
    assert absorb(weight, None, Affine(2 * ones, 0 * ones), transposed=False, groups=1)[1] is None
    shift = torch.tensor([0.0, 0.5]).double()
    gained = absorb(weight.half(), None, Affine(2 * ones, shift), transposed=False, groups=1)[1]
    assert gained is not None
    assert gained.dtype == torch.float16
    assert gained.tolist() == [0.0, 0.5]


@pytest.mark.parametrize("transposed", [False, True])
def test_a_large_weight_is_worked_on_in_parts_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch, transposed: bool
) -> None:
    weight = torch.randn(6, 6, 3)
    change = Affine(torch.rand(12 if transposed else 6).double(), torch.zeros(12 if transposed else 6).double())
    groups = 2 if transposed else 1
    whole, _ = absorb(weight, None, change, transposed=transposed, groups=groups)
    monkeypatch.setattr(absorbing, "BLOCK_ELEMENTS", 40)
    parts, _ = absorb(weight, None, change, transposed=transposed, groups=groups)
    assert torch.equal(whole, parts)


def test_the_argument_is_left_alone() -> None:
    weight, bias = torch.randn(2, 3), torch.randn(2)
    before = weight.clone(), bias.clone()
    change = Affine(torch.full((2,), 3.0).double(), torch.ones(2).double())
    absorb(weight, bias, change, transposed=False, groups=1)
    assert torch.equal(weight, before[0])
    assert torch.equal(bias, before[1])
