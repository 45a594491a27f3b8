"""Which norms fold away, which stay, and the sentence for each that stays."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import make_fold_plan, retrofit
from bnretrofit.norms import ChannelsLastBatchNorm1d
from tests.library.networks import (
    CONVS,
    ReadBesides,
    StandardisedConv,
    TwoNorms,
    chain,
    conv_then,
    images,
    input_of,
    with_own_norms,
)
from tests.library.observing import observed, part, randomised, same


class Wide(nn.BatchNorm2d):
    """A norm that may do anything."""


class FrozenBatchNorm2d(nn.Module):
    """Named like a norm, and no subclass of one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(4))

    def forward(self, x: Tensor) -> Any:
        return x * part(self, "").weight.view(1, -1, 1, 1)


class Calls(nn.Module):
    """conv, norm and more, called as a function says."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.conv, self.other, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        for name, module in modules.items():
            setattr(self, name, module)
        self.calls = forward

    def forward(self, x: Tensor) -> Any:
        return self.calls(self, x)


def conv_norm(m: Any, x: Tensor) -> Any:
    return m.norm(m.conv(x))


def weight_norm() -> Any:
    return nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1))


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda *_: None)
    return module


def tied_bias(m: Any) -> Any:
    m.other.bias = m.conv.bias
    return m


STAYS: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: Calls(lambda m, x: m.norm(m.conv(x)) + m.norm(m.other(x))), "follows several layers: conv, other"),
    (
        lambda: Calls(lambda m, x: m.norm(m.conv(x)) + m.conv(x + 1)),
        "called more than once, and not always with this norm",
    ),
    (lambda: Calls(lambda m, x: m.norm(m.conv(x)) + m.conv.weight.sum()), "a tensor of 'conv' is also used by"),
    (lambda: tied_bias(Calls(lambda m, x: m.norm(m.conv(x)))), "a tensor of 'conv' is tied to 'other'"),
    (
        lambda: Calls(lambda m, x: m.norm(m.conv(x).relu())),
        "is aten.relu.default in the model's own forward",
    ),
    (
        lambda: Calls(lambda m, x: m.norm(m.relu(m.conv(x))), relu=nn.ReLU()),
        "in ReLU 'relu', not a conv",
    ),
    (
        lambda: Calls(
            lambda m, x: m.conv(m.norm(x)), norm=randomised(nn.BatchNorm2d(3)), conv=nn.Conv2d(3, 4, 3, padding=1)
        ),
        "nothing computes its input: it is the model's own; and 'conv' after it pads with zeros",
    ),
    (lambda: Calls(lambda m, x: m.conv(x)), "the model never runs it in eval mode"),
    (
        lambda: Calls(lambda m, x: m.norm(nn.functional.conv2d(x, m.conv.weight))),
        "functional call in the model's own forward",
    ),
    (lambda: Calls(conv_norm, norm=nn.BatchNorm2d(4, track_running_stats=False)), "keeps no running statistics"),
    (lambda: Calls(conv_norm, norm=Wide(4)), "its class Wide may do more than normalise"),
    (lambda: Calls(conv_norm, norm=FrozenBatchNorm2d()), "its class FrozenBatchNorm2d may do more"),
    (lambda: Calls(conv_norm, norm=hooked(nn.BatchNorm2d(4))), "it has hooks, which would be lost"),
    (lambda: Calls(conv_norm, conv=hooked(nn.Conv2d(3, 4, 1))), "'conv' has hooks, which would see another output"),
    (lambda: Calls(conv_norm, conv=StandardisedConv(3, 4, 3)), "changed before it is used"),
    (lambda: Calls(conv_norm, conv=weight_norm()), "the weight of 'conv' is re-parametrised"),
    (ReadBesides, "the output of 'conv' is also read elsewhere, without the norm"),
]


@pytest.mark.parametrize(("build", "reason"), STAYS)
def test_what_cannot_be_folded_stays_with_its_reason(build: Callable[[], nn.Module], reason: str) -> None:
    plan = make_fold_plan(build().eval(), images())
    assert plan.folds == ()
    (left,) = plan.leaves
    assert left.name == "norm"
    assert re.search(reason, left.reason), left.reason


def test_two_norms_after_one_layer_both_stay() -> None:
    plan = make_fold_plan(TwoNorms().eval(), images())
    assert plan.folds == ()
    assert [left.name for left in plan.leaves] == ["first", "second"]
    assert all("'conv' is called more than once" in left.reason for left in plan.leaves)


def test_one_norm_after_every_call_of_a_layer_folds() -> None:
    model = Calls(
        lambda m, x: m.norm(m.conv(m.norm(m.conv(x)).relu())), conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)
    )
    assert [found.norm for found in make_fold_plan(model.eval(), images()).folds] == ["norm"]


def test_a_norm_in_training_mode_stays_and_its_frozen_neighbour_folds() -> None:
    model = with_own_norms().train()
    part(model, "1").eval()
    plan = make_fold_plan(model, images())
    assert [found.norm for found in plan.folds] == ["1"]
    assert [(left.name, "call model.eval() first" in left.reason) for left in plan.leaves] == [("4", True)]


def test_a_norm_that_is_not_finite_stays() -> None:
    model = Calls(conv_norm).eval()
    part(model, "norm").running_mean[2] = torch.nan
    assert make_fold_plan(model, images()).leaves[0].reason == "its statistics, scale or shift are not finite"


@pytest.mark.parametrize(("tokens", "folds"), [(5, 0), (7, 0)])
def test_a_norm_along_tokens_is_not_taken_for_one_along_channels(tokens: int, folds: int) -> None:
    # With as many tokens as channels nothing but the dimension tells the two apart.
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(tokens), nn.ReLU()).eval()
    plan = make_fold_plan(model, torch.zeros(2, tokens, 4))
    assert len(plan.folds) == folds
    assert "does not normalise the output of '0' along its channels" in plan.leaves[0].reason
    model[1] = ChannelsLastBatchNorm1d(5).eval()
    assert [found.norm for found in make_fold_plan(model, torch.zeros(2, tokens, 4)).folds] == ["1"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", CONVS)
def test_a_fold_says_what_will_change(kind: str, bias: bool) -> None:
    model = randomised(conv_then(kind, bias=bias, norm=True))
    norm = part(model, "1")
    (found,) = make_fold_plan(model, input_of(kind)).folds
    assert (found.norm, found.layer, found.kind, found.channels) == ("1", "0", kind, 6)
    assert found.unchanged == 0
    assert found.new_bias is not bias
    largest = (norm.weight.detach().double().abs() / (norm.running_var.double() + norm.eps).sqrt()).max()
    assert found.scale_max == pytest.approx(float(largest), rel=1e-12)


def test_inserted_norms_are_unchanged_in_every_channel() -> None:
    plan = make_fold_plan(retrofit(chain().eval(), [images(8)]), images())
    assert [(found.norm, found.unchanged, found.new_bias) for found in plan.folds] == [
        ("0.norm", 6, False),
        ("4.norm", 8, False),
        ("8.norm", 12, False),
    ]
    assert all(found.scale_max == pytest.approx(1, abs=1e-4) for found in plan.folds)


def test_only_what_was_inserted_folds_and_the_network_s_own_stay() -> None:
    own = nn.Sequential(with_own_norms()[:3], nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    model = retrofit(own, [images(8)])
    plan = make_fold_plan(model, images())
    assert [found.norm for found in plan.folds] == ["1.norm"]
    assert [(left.name, left.reason.split(",")[0]) for left in plan.leaves] == [("0.1", "it is the network's own")]


def test_planning_a_fold_changes_nothing() -> None:
    for build, _ in STAYS:
        model = build()
        before = observed(model)
        make_fold_plan(model, images())
        assert same(before, observed(model))
