"""Norms that fold into the layer after them: what they pass through, where they arrive, and where they cannot."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import fold, make_fold_plan, verify
from bnretrofit.errors import VerificationError
from bnretrofit.norms import ChannelsLastBatchNorm1d
from tests.library.observing import norms_of, observed, part, planned, randomised, run, same


def norm_first(*layers: nn.Module, norm: nn.Module | None = None) -> nn.Module:
    """A norm that nothing can take backward, positive in its scale, and what reads it."""
    model = randomised(nn.Sequential(norm or nn.BatchNorm2d(4), *layers))
    with torch.no_grad():
        part(model, "0").weight.abs_()
    return model


def grouped() -> nn.Module:
    return nn.Conv2d(4, 6, 3, groups=2)


IMAGE, TOKENS, FLAT = (3, 4, 8, 8), (3, 5, 4), (3, 4)

FOLDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "unpadded conv": (lambda: norm_first(nn.Conv2d(4, 6, 3)), IMAGE),
    "without bias": (lambda: norm_first(nn.Conv2d(4, 6, 3, bias=False)), IMAGE),
    "grouped": (lambda: norm_first(grouped()), IMAGE),
    "depthwise": (lambda: norm_first(nn.Conv2d(4, 8, 3, groups=4)), IMAGE),
    "valid": (lambda: norm_first(nn.Conv2d(4, 6, 3, padding="valid")), IMAGE),
    "1x1 same": (lambda: norm_first(nn.Conv2d(4, 6, 1, padding="same")), IMAGE),
    "reflecting padding": (lambda: norm_first(nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")), IMAGE),
    "dropout": (lambda: norm_first(nn.Dropout2d(0.5), nn.Conv2d(4, 6, 3)), IMAGE),
    "max pool": (lambda: norm_first(nn.MaxPool2d(2), nn.Conv2d(4, 6, 3)), IMAGE),
    "average pool": (lambda: norm_first(nn.AvgPool2d(3, 2, ceil_mode=True), nn.Conv2d(4, 6, 3)), IMAGE),
    "flatten": (lambda: norm_first(nn.Flatten(), nn.Dropout(), nn.Linear(4 * 8 * 8, 5)), IMAGE),
    "pool, flatten": (lambda: norm_first(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)), IMAGE),
    "conv after": (lambda: norm_first(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()), IMAGE),
    "two norms": (lambda: norm_first(nn.Dropout(), randomised(nn.BatchNorm2d(4)), nn.Conv2d(4, 6, 3)), IMAGE),
    "dense": (lambda: norm_first(nn.Linear(4, 6), norm=nn.BatchNorm1d(4)), FLAT),
    "tokens": (lambda: norm_first(nn.Linear(4, 6), norm=ChannelsLastBatchNorm1d(4)), TOKENS),
    "channels split": (lambda: norm_first(nn.Flatten(), nn.Unflatten(1, (16, 4, 4)), nn.Conv2d(16, 6, 3)), IMAGE),
    "tokens, flatten": (lambda: norm_first(nn.Flatten(), nn.Linear(20, 6), norm=ChannelsLastBatchNorm1d(4)), TOKENS),
}


@pytest.mark.parametrize("case", FOLDS)
def test_a_norm_folds_into_the_layer_after_it(case: str) -> None:
    build, shape = FOLDS[case]
    model, x = build().double(), torch.randn(shape).double()
    before = observed(model)
    plan = make_fold_plan(model, x)
    assert plan.leaves == ()
    assert plan.folds[0].direction == "forward"
    assert "after it" in plan.folds[0].reason
    folded = fold(model, x)
    assert same(before, observed(model))
    assert not list(norms_of(folded))
    y = torch.randn(5, *shape[1:]).double()
    torch.testing.assert_close(run(folded, y), run(model, y), rtol=1e-12, atol=1e-12)


class Mean(nn.Module):
    """Averages as ResNets do."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Both(nn.Module):
    """A norm whose output two layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3)

    def forward(self, x: Tensor) -> Any:
        y = self.norm(x)
        return self.a(y) + self.b(y)


class Twice(nn.Module):
    """A layer that reads a norm once, and something else once."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Any:
        return self.conv(self.conv(self.norm(x)).relu())


def negative(*layers: nn.Module) -> nn.Module:
    model = norm_first(*layers)
    with torch.no_grad():
        part(model, "0").weight[1] *= -1
    return model


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_pre_hook(lambda *_: None)
    return layer


STAYS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "ReLU": (lambda: norm_first(nn.ReLU(), nn.Conv2d(4, 6, 3)), r"aten.relu.default in ReLU '1' stands between"),
    "zero padding": (lambda: norm_first(nn.Conv2d(4, 6, 3, padding=1)), "'1' after it pads with zeros"),
    "same padding": (lambda: norm_first(nn.Conv2d(4, 6, 3, padding="same")), "'1' after it pads with zeros"),
    "zero pad": (lambda: norm_first(nn.ZeroPad2d(1), nn.Conv2d(4, 6, 3)), "in ZeroPad2d '1' stands between"),
    "padded average": (lambda: norm_first(nn.AvgPool2d(3, 2, 1), nn.Conv2d(4, 6, 3)), "in AvgPool2d '1' stands"),
    "negative scale": (lambda: negative(nn.MaxPool2d(2), nn.Conv2d(4, 6, 3)), "in MaxPool2d '1' stands between"),
    "transposed": (lambda: norm_first(nn.ConvTranspose2d(4, 6, 3)), "'1' is transposed"),
    "two readers": (lambda: randomised(Both()), "its output is read by 2 calls"),
    "called twice": (lambda: randomised(Twice()), "'conv' after it is called more than once"),
    "the end": (lambda: norm_first(Mean()), "its output is the model's own"),
    "hooks": (lambda: norm_first(hooked(nn.Conv2d(4, 6, 3))), "'1' after it has hooks, which would see another input"),
    "standardised": (
        lambda: norm_first(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3))),
        "the weight of '1' is re-parametrised",
    ),
    "channels shuffled": (
        lambda: norm_first(nn.Flatten(), nn.Unflatten(1, (2, 16, 8)), nn.Conv2d(2, 6, 3)),
        "its channels are not those that '3' reads",
    ),
}


@pytest.mark.parametrize("case", STAYS)
def test_what_a_norm_cannot_pass_is_named(case: str) -> None:
    build, reason = STAYS[case]
    model, x = build(), torch.randn(IMAGE)
    (left,) = make_fold_plan(model, x).leaves
    assert re.search(reason, left.reason), left.reason
    assert torch.equal(run(fold(model, x), x), run(model, x))


def test_a_scale_alone_passes_zero_padding_and_a_transposed_layer() -> None:
    for layer in (nn.Conv2d(4, 6, 3, padding=1), nn.ConvTranspose2d(4, 6, 3, groups=2)):
        model, x = norm_first(layer), torch.randn(IMAGE).double()
        with torch.no_grad():
            part(model, "0").bias.zero_()
            part(model, "0").running_mean.zero_()
        model.double()
        torch.testing.assert_close(run(fold(model, x), x), run(model, x), rtol=1e-12, atol=1e-12)
        assert make_fold_plan(model, x).leaves == ()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_new_layers_pad_with_what_the_norm_would_have_made_zero(bias: bool, groups: int) -> None:
    layers = nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=(1, 2), groups=groups, bias=bias), nn.ReLU()
    model, x = norm_first(*layers).double(), torch.randn(IMAGE).double()
    before = observed(model)
    plan = planned(model, x)
    assert [found.new_layer for found in plan.folds] == [True]
    folded = fold(model, x, allow_new_layers=True)
    assert same(before, observed(model))
    assert next(iter(folded.state_dict())) == "2.pad.value"
    assert part(folded, "2").in_channels == 4
    torch.testing.assert_close(run(folded, x), run(model, x), rtol=1e-12, atol=1e-12)
    assert verify(model, folded, [x]).passed


def test_a_new_layer_s_padding_is_verified() -> None:
    model, x = norm_first(nn.Conv2d(4, 6, 3, padding=1)), torch.randn(IMAGE)
    folded = fold(model, x, allow_new_layers=True)
    with torch.no_grad():
        part(folded, "1.pad").value[2] *= 1.01
    report = verify(model, folded, [x])
    assert not report.passed
    assert report.difference is not None
    assert "padding of '1.layer'" in report.difference or report.layer == "1.layer"


def test_no_new_layer_stands_for_a_channel_that_is_scaled_by_zero() -> None:
    model, x = norm_first(nn.Conv2d(4, 6, 3, padding=1)), torch.randn(IMAGE)
    with torch.no_grad():
        part(model, "0").weight[0] = 0.0
    (left,) = planned(model, x).leaves
    assert "no other padding can stand for the shift" in left.reason


def test_a_wrong_arrival_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnretrofit import absorbing, folding

    def forgetful(weight: Any, bias: Any, after: Any, _before: Any, **options: Any) -> Any:
        return absorbing.absorb(weight, bias, after, None, **options)

    monkeypatch.setattr(folding, "absorb", forgetful)
    with pytest.raises(VerificationError, match="not the same function"):
        fold(norm_first(nn.Conv2d(4, 6, 3)), torch.randn(IMAGE))
