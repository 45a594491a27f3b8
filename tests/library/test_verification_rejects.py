"""The checker rejects every wrong model of these, naming the layer."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import retrofit, verify
from tests.library.networks import chain, conv_then, images, input_of
from tests.library.observing import part, randomised

LAYERS = ("0", "4", "8", "11")


def retrofitted() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    model = chain().eval()
    return model, retrofit(model, [images(16)])


@pytest.mark.parametrize("name", LAYERS)
def test_one_weight_tensor_off_by_one_per_cent_is_rejected_naming_its_layer(name: str) -> None:
    model, other = retrofitted()
    layer = part(other, name)
    with torch.no_grad():
        getattr(layer, "layer", layer).weight.mul_(1.01)
    report = verify(model, other, [images(4)])
    assert not report.passed
    assert not report.proved
    assert report.layer is not None
    assert report.layer.split(".")[0] == name
    assert report.tensor_error == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("name", LAYERS)
def test_a_dropped_bias_is_rejected_naming_its_layer(name: str) -> None:
    model, other = retrofitted()
    layer = part(other, name)
    getattr(layer, "layer", layer).bias = None
    report = verify(model, other, [images(4)])
    assert not report.passed
    assert report.layer is not None
    assert report.layer.split(".")[0] == name
    assert report.difference is not None
    assert "bias" in report.difference


def off_eps(m: Any) -> None:
    m.norm.eps = 0.1


def swapped_channels(m: Any) -> None:
    m.layer.weight[[0, 1]] = m.layer.weight[[1, 0]].clone()


def swapped_norm(m: Any) -> None:
    for tensor in (m.norm.weight, m.norm.bias, m.norm.running_mean, m.norm.running_var):
        tensor[[0, 1]] = tensor[[1, 0]].clone()
    m.norm.running_mean[0] += 1


def turned_sign(m: Any) -> None:
    m.norm.weight[3] *= -1


def lost_statistics(m: Any) -> None:
    m.norm.reset_running_stats()


@pytest.mark.parametrize("fault", [off_eps, swapped_channels, swapped_norm, turned_sign, lost_statistics])
@pytest.mark.parametrize("name", ["0", "4", "8"])
def test_a_fault_in_a_site_is_rejected_naming_it(name: str, fault: Any) -> None:
    model, other = retrofitted()
    with torch.no_grad():
        fault(part(other, name))
    report = verify(model, other, [images(4)])
    assert not report.passed
    assert not report.proved
    assert report.layer is not None
    assert report.layer.split(".")[0] == name


def test_norms_after_the_wrong_layers_are_rejected() -> None:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1)]
    model = nn.Sequential(*layers).eval()
    other: Any = retrofit(model, [images(16)])
    with torch.no_grad():
        other[0].norm.weight.mul_(2)
        other[2].norm.bias.add_(1)
    right = copy.deepcopy(other)
    other[0].norm, other[2].norm = other[2].norm, other[0].norm
    assert verify(right, right, [images(4)]).proved
    assert not verify(right, other, [images(4)]).passed


def test_a_norm_after_the_activation_is_no_norm_before_it() -> None:
    model, made = retrofitted()
    other: Any = made
    moved: Any = copy.deepcopy(other)
    moved[0], moved[1] = moved[0].layer, nn.Sequential(moved[1], moved[0].norm)
    # While it is the identity, it may stand anywhere.
    assert verify(model, moved, [images(4)]).proved
    with torch.no_grad():
        other[0].norm.weight.mul_(2)
        other[0].norm.bias.add_(1)
    assert not verify(other, moved, [images(4)]).passed


def test_another_padding_with_equal_tensors_is_not_proved() -> None:
    model = conv_then("Conv2d").eval()
    other = copy.deepcopy(model)
    part(other, "0").padding_mode = "circular"
    report = verify(model, other, [input_of("Conv2d")])
    assert not report.passed
    assert not report.proved
    # Also where the images cannot show it.
    report = verify(model, other, [torch.zeros(2, 4, 5, 5)])
    assert not report.proved
    assert not report.passed, "the random inputs show it"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_output_that_is_not_finite_never_passes(bad: float) -> None:
    model = chain().eval()
    with torch.no_grad():
        part(model, "11").bias[2] = bad
    for a, b in ((model, model), (model, chain()), (chain(), model)):
        report = verify(a, b, [images(4)])
        assert not report.passed
        assert not report.bit_identical
        assert math.isnan(report.max_abs_error)
        assert math.isnan(report.required_rtol)


def test_outputs_of_other_shapes_numbers_or_kinds_are_rejected() -> None:
    class Says(nn.Module):
        def __init__(self, output: Any) -> None:
            super().__init__()
            self.says = output

        def forward(self, x: Tensor) -> Any:
            return self.says(x)

    cases: list[tuple[Any, Any, str]] = [
        (lambda x: x, lambda x: x[:, :2], "shapes"),
        (lambda x: (x, x), lambda x: (x,), "return 2 and 1 values"),
        (lambda x: (x, x.argmax(1)), lambda x: (x, x.argmin(1)), "no floating-point numbers differ"),
        (lambda x: x[0, 0, 0, 0], lambda x: x[0, 0, 0, 1], "differ by"),
    ]
    for a, b, reason in cases:
        report = verify(Says(a), Says(b), [images(4)])
        assert not report.passed
        assert report.reason is not None
        assert reason in report.reason
        assert verify(Says(a), Says(a), [images(4)]).passed


def test_a_norm_after_a_layer_that_cannot_take_it_is_compared_by_itself() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    model = randomised(nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU()))
    other = copy.deepcopy(model)
    assert verify(model, other, [images(4)]).proved
    with torch.no_grad():
        # A single channel by so little that the outputs would pass.
        part(other, "1").weight[1] *= 1.0003
    report = verify(model, other, [images(4)], rtol=1e-2)
    assert not report.passed
    assert report.layer == "1"
