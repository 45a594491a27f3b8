"""Frozen statistics: the function and the gradients of eval-mode norms, in both modes, and nothing left behind."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from bnretrofit import retrofit
from bnretrofit.norms import ChannelsLastBatchNorm1d
from bnretrofit.training import absorbed_forward
from tests.library.frozen_checks import assert_like_eval_mode
from tests.library.networks import CONVS, CalledTwice, Tokens, chain, conv_then, images, input_of, with_own_norms
from tests.library.observing import norms_of
from tests.library.test_twins import Twin


@pytest.mark.parametrize(("groups", "bias"), [(1, True), (2, False)])
@pytest.mark.parametrize("kind", CONVS)
def test_convolutions_of_all_kinds(kind: str, groups: int, bias: bool) -> None:
    found = assert_like_eval_mode(conv_then(kind, groups, bias=bias, norm=True), input_of(kind))
    assert [(pair.norm, pair.layer) for pair in found.absorbed] == [("1", "0")]


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "kernel_size": 3},
        {"padding": 2, "padding_mode": "circular", "kernel_size": 3},
        {"stride": 2, "dilation": 2, "kernel_size": 2, "groups": 4},
    ],
)
def test_convolutions_with_all_their_options(options: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, **options), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    assert len(assert_like_eval_mode(model, images(2, 4)).absorbed) == 1


class Upsampling(nn.Module):
    """Tells a transposed convolution the size of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.up(input=x, output_size=[2 * x.shape[-2], 2 * x.shape[-1]]))


def test_a_transposed_convolution_told_its_output_size() -> None:
    assert len(assert_like_eval_mode(Upsampling(), images(2, 4, 5)).absorbed) == 1


DENSE: dict[str, Callable[[], nn.Module]] = {
    "(N, C)": lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True)),
    "(N, L, C)": lambda: nn.Sequential(nn.Linear(4, 6), ChannelsLastBatchNorm1d(6), nn.ReLU(inplace=True)),
    "(N, H, W, C)": lambda: nn.Sequential(nn.Linear(4, 6, bias=False), ChannelsLastBatchNorm1d(6)),
}


@pytest.mark.parametrize("shape", DENSE)
def test_dense_layers(shape: str) -> None:
    sizes = {"N": 3, "L": 5, "H": 2, "W": 5, "C": 4}
    x = torch.randn([sizes[letter] for letter in shape if letter in sizes])
    assert len(assert_like_eval_mode(DENSE[shape](), x).absorbed) == 1


MAKES: dict[str, Callable[[], nn.Module]] = {
    "without affine": partial(nn.BatchNorm2d, 4, affine=False),
    "SyncBatchNorm": partial(nn.SyncBatchNorm, 4),
    "with activation": partial(BatchNormAct2d, 4, act_layer=nn.PReLU),
    "frozen": partial(FrozenBatchNorm2d, 4),
}


@pytest.mark.parametrize("make", MAKES)
def test_norms_of_all_makes(make: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), MAKES[make](), nn.Flatten(), nn.Linear(144, 3))
    assert len(assert_like_eval_mode(model, images()).absorbed) == 1


@pytest.mark.parametrize("model", [chain(), CalledTwice(), Tokens()])
def test_retrofitted_networks(model: nn.Module) -> None:
    x = torch.randn(8, 5, 4) if isinstance(model, Tokens) else images(8)
    result = retrofit(model, [x])
    found = assert_like_eval_mode(result, x)
    assert len(found.absorbed) == len(list(norms_of(result))) > 0
    assert found.leaves == ()


def test_a_twin_with_norms_of_its_own_class() -> None:
    found = assert_like_eval_mode(Twin(), images(8))
    assert {pair.norm: pair.layer for pair in found.absorbed} == {
        "features.1": "features.0",
        "features.4": "features.3",
    }


class TwoSizes(nn.Module):
    """One conv and one norm, called with a large and a small image, the norm after both calls of the conv."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Any:
        large, small = self.conv(x), self.conv(x[..., :2, :2])
        return torch.cat([self.norm(small).flatten(1), self.norm(large).flatten(1)], 1)


def test_each_call_scales_whichever_has_fewer_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TwoSizes()
    ways: list[tuple[int, ...]] = []
    original = absorbed_forward._output_normalised

    def noted(output: Tensor, *rest: Any) -> Tensor:
        ways.append(tuple(output.shape))
        return original(output, *rest)

    monkeypatch.setattr(absorbed_forward, "_output_normalised", noted)
    found = assert_like_eval_mode(model, images())
    assert [(pair.norm, pair.layer) for pair in found.absorbed] == [("norm", "conv")]
    # 81 weights; 384 outputs and 24, in both modes. Then none, then all of them.
    assert ways == [(2, 3, 2, 2)] * 2 + [(2, 3, 8, 8), (2, 3, 2, 2)] * 2


def test_the_comparison_sees_a_scale_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = absorbed_forward._scale_and_shift

    def wrong(norm: Any, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        scale, shift = right(norm, bias)
        return scale * (1 + 1e-8), shift

    monkeypatch.setattr(absorbed_forward, "_scale_and_shift", wrong)
    with pytest.raises(AssertionError):
        assert_like_eval_mode(with_own_norms(), images(8))
