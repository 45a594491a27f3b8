"""Faults planted in a network with norms: each is found, and its layer is named."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bnretrofit import Report, fold, retrofit, verify
from tests.library.networks import images
from tests.library.observing import randomised


class Network(nn.Module):
    """What VGGs and ResNets have, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.act = nn.ReLU()
        self.pool: nn.Module = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.5)
        self.dense = nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Any:
        x = self.pool(self.act(self.stem(x)))
        x = x + self.act(self.second(self.act(self.first(x))))
        x = self.act(self.third(x)).flatten(1)
        return self.head(self.drop(self.act(self.dense(x))))


@cache
def made() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    model = Network().eval()
    return model, retrofit(model, [images(32)])


def off_by_one_percent(layer: Any) -> None:
    # Not the largest weight of its tensor.
    layer.weight.view(-1)[layer.weight.numel() // 2] *= 1.01


def one_weight_of_a_conv(m: Any) -> None:
    off_by_one_percent(m.first.layer)


def one_weight_of_a_dense_layer(m: Any) -> None:
    off_by_one_percent(m.dense.layer)


def one_weight_of_the_head(m: Any) -> None:
    off_by_one_percent(m.head)


def bias_dropped(m: Any) -> None:
    m.second.layer.bias = None


def one_bias_off(m: Any) -> None:
    m.third.layer.bias[3] += 0.01 * m.third.layer.bias.abs().max()


def other_eps(m: Any) -> None:
    m.first.norm.eps = 1e-3


def sign_of_gamma(m: Any) -> None:
    m.third.norm.weight[5] *= -1


def channels_swapped(m: Any) -> None:
    m.second.layer.weight[[2, 6]] = m.second.layer.weight[[6, 2]].clone()


def channels_of_a_norm_swapped(m: Any) -> None:
    for tensor in (m.first.norm.weight, m.first.norm.bias):
        tensor[[0, 7]] = tensor[[7, 0]].clone()


def one_running_mean_moved(m: Any) -> None:
    m.stem.norm.running_mean[1] += 0.01


def one_running_var_off(m: Any) -> None:
    m.dense.norm.running_var[0] *= 1.01


def statistics_lost(m: Any) -> None:
    m.third.norm.reset_running_stats()


def norms_after_the_wrong_layers(m: Any) -> None:
    # While they are the identity, they may stand anywhere.
    m.first.norm.weight.mul_(1.5)
    m.second.norm.weight.mul_(0.5)
    m.first.norm, m.second.norm = m.second.norm, m.first.norm


def norm_after_the_activation(m: Any) -> None:
    norm, m.stem = m.stem.norm, m.stem.layer
    norm.weight.mul_(1.5)
    m.pool = nn.Sequential(norm, m.pool)


def other_padding(m: Any) -> None:
    m.second.layer.padding_mode = "circular"


def other_dilation(m: Any) -> None:
    m.first.layer.dilation, m.first.layer.padding = (2, 2), (2, 2)


def other_pooling(m: Any) -> None:
    m.pool = nn.AvgPool2d(2)


def other_activation(m: Any) -> None:
    m.act = nn.ReLU6()


def flipped_kernel(m: Any) -> None:
    m.stem.layer.weight.copy_(m.stem.layer.weight.flip(-1))


def half_precision(m: Any) -> None:
    m.second.layer.weight.copy_(m.second.layer.weight.half().float())


def layers_swapped(m: Any) -> None:
    m.first, m.second = m.second, m.first


class AlwaysDrops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.1, training=True)


def dropout_left_on(m: Any) -> None:
    m.drop = AlwaysDrops()


# By the layer that is to be named first; "" where the fault is between layers.
FAULTS: dict[Callable[[Any], None], str] = {
    one_weight_of_a_conv: "first",
    one_weight_of_a_dense_layer: "dense",
    one_weight_of_the_head: "head",
    bias_dropped: "second",
    one_bias_off: "third",
    other_eps: "first",
    sign_of_gamma: "third",
    channels_swapped: "second",
    channels_of_a_norm_swapped: "first",
    one_running_mean_moved: "stem",
    one_running_var_off: "dense",
    statistics_lost: "third",
    norms_after_the_wrong_layers: "first",
    norm_after_the_activation: "",
    other_padding: "second",
    other_dilation: "first",
    other_pooling: "",
    other_activation: "",
    flipped_kernel: "stem",
    half_precision: "second",
    layers_swapped: "first",
    dropout_left_on: "",
}


def faulty(network: nn.Module, fault: Callable[[Any], None]) -> nn.Module:
    other = copy.deepcopy(network)
    with torch.no_grad():
        fault(other)
    return other


def judged(a: nn.Module, b: nn.Module) -> Report:
    return verify(a, b, [images(8)], per_layer=True)


def test_there_are_twenty_of_them_and_none_is_seen_where_none_is() -> None:
    assert len(FAULTS) >= 20
    model, sound = made()
    report = judged(model, sound)
    assert report.proved
    assert report.first_divergent is None
    assert [layer.reference for layer in report.layers or ()] == ["stem", "first", "second", "third", "dense", "head"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found_and_its_layer_named(fault: Callable[[Any], None]) -> None:
    model, sound = made()
    report = judged(model, faulty(sound, fault))
    assert (report.passed, report.proved) == (False, False)
    assert report.reason is not None
    named, first = FAULTS[fault], report.first_divergent
    if named:
        assert report.layer is not None
        assert report.layer.split(".")[0] == named
        assert first is not None
        assert first.reference == named
    else:
        assert report.difference is not None


@pytest.mark.parametrize("fault", [fault for fault, layer in FAULTS.items() if layer], ids=lambda fault: fault.__name__)
def test_a_fault_is_found_in_what_a_fold_is_held_against(fault: Callable[[Any], None]) -> None:
    torch.manual_seed(4)
    _, sound = made()
    sound = randomised(copy.deepcopy(sound))
    folded = fold(sound, images(), force=True)
    assert judged(sound, folded).passed
    report = judged(faulty(sound, fault), folded)
    assert not report.passed
    assert report.layer == FAULTS[fault]
    first = report.first_divergent
    if first is None:
        # A single weight may change what its layer gives by less than rounding does: its tensor tells.
        assert fault in (one_weight_of_a_conv, one_weight_of_a_dense_layer, one_weight_of_the_head, half_precision)
    else:
        assert first.layer == FAULTS[fault]


@pytest.mark.parametrize("change", ["channels_last", "half"])
def test_a_fault_is_named_in_another_layout_or_dtype_too(change: str) -> None:
    def changed(m: Any) -> None:
        m.third.weight.mul_(1.05)
        m.to(memory_format=torch.channels_last) if change == "channels_last" else m.half()

    model, _ = made()
    report = judged(model, faulty(model, changed))
    assert not report.passed
    assert report.layer == "third"


def test_small_weights_in_half_precision_are_not_accused() -> None:
    torch.manual_seed(0)
    model = nn.Linear(25088, 64)
    report = verify(model, copy.deepcopy(model).half(), [torch.randn(2, 25088)])
    assert report.passed, report


def test_a_wrong_momentum_is_found_where_training_is_asked_for() -> None:
    def other_momentum(m: Any) -> None:
        m.second.norm.momentum = 0.5

    _, sound = made()
    other = faulty(sound, other_momentum)
    assert verify(sound, other, [images(8)]).passed, "until it is trained, it is the same function"
    assert verify(sound, sound, [images(8)], training=True).passed
    report = verify(sound, other, [images(8)], training=True)
    assert not report.passed
    assert report.layer == "second.norm"
    assert report.reason is not None
    assert "momentum" in report.reason


def lowered(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """All but the norms, whose parameters mixed precision leaves in float32."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.to(dtype)
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.to(memory_format=torch.channels_last),
        lambda m: m.double(),
        lambda m: lowered(m, torch.float16),
        lambda m: lowered(m, torch.bfloat16),
    ],
    ids=["channels_last", "float64", "float16", "bfloat16"],
)
def test_equal_models_in_another_layout_or_dtype_are_not_accused(change: Callable[[Any], nn.Module]) -> None:
    model, sound = made()
    for a, b in ((model, change(copy.deepcopy(model))), (model, change(copy.deepcopy(sound)))):
        for report in (judged(a, b), judged(b, a)):
            assert report.passed, report
            assert report.first_divergent is None
