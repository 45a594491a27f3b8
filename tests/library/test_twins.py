"""Tensors carried into another architecture of the same function, matched in the order in which the layers run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import ChannelStats, fold, insert, make_plan, retrofit
from bnretrofit.capture import capture
from bnretrofit.errors import InputRejectedError
from bnretrofit.twins import align, carry
from tests.library.networks import images
from tests.library.observing import equal_states, observed, part, run, same, storages


class Plain(nn.Module):
    """A small VGG under names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x).mean((2, 3)))


class Twin(nn.Module):
    """The same function under other names, with norms after its convs."""

    def __init__(self, channels: int = 6, *, norms: int = 2, bias: bool = True, **options: Any) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, bias=bias)]
        layers += [nn.BatchNorm2d(channels, eps=0.01)] if norms > 0 else []
        layers += [nn.ReLU(inplace=True), nn.Conv2d(channels, 8, 3)]
        layers += [nn.BatchNorm2d(8, **options)] if norms > 1 else []
        self.features = nn.Sequential(*layers, nn.ReLU(inplace=True))
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        return self.classifier(self.features(x).mean((2, 3)))


def test_layers_are_matched_in_the_order_in_which_they_run() -> None:
    found = align(capture(Plain(), images()), capture(Twin(), images()))
    assert found.norms == {"body.0": ("features.0", "features.1"), "body.2": ("features.3", "features.4")}
    assert found.tensors["features.3.weight"] == "body.2.weight"
    assert found.tensors["classifier.bias"] == "head.bias"
    assert len(found.tensors) == 6


def test_a_twin_holds_what_it_is_given_and_keeps_its_own() -> None:
    twin = Twin()
    before = observed(twin)
    state = {name: torch.randn_like(tensor.float()).to(tensor.dtype) for name, tensor in twin.state_dict().items()}
    found = carry(twin, state, training=False)
    assert type(found) is Twin
    assert same(before, observed(twin))
    assert not found.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_a_retrofit_like_a_twin_is_the_twin_s_class_and_the_same_function(training: bool) -> None:
    model, twin = Plain().train(training), Twin()
    before = observed(model), observed(twin)
    result = retrofit(model, [images(8)], like=twin)
    assert same(before[0], observed(model))
    assert same(before[1], observed(twin))
    assert type(result) is Twin
    assert {module.training for module in result.modules()} == {training}
    assert not storages(result) & (storages(model) | storages(twin))
    Twin().load_state_dict(result.state_dict(), strict=True)
    x = images(7)
    assert torch.equal(run(result, x), run(model, x))
    assert part(result, "features.1").eps == 0.01


def test_a_twin_on_the_meta_device_is_enough() -> None:
    with torch.device("meta"):
        twin = Twin()
    model, x = Plain(), images(5)
    result = retrofit(model, [images(8)], like=twin)
    assert torch.equal(run(result, x), run(model, x))


@pytest.mark.parametrize("twin", [Twin, lambda: None])
def test_a_fold_like_a_twin_is_the_original_bit_for_bit(twin: Callable[[], nn.Module | None]) -> None:
    model = Plain().eval()
    result = retrofit(model, [images(8)], like=twin())
    found = fold(result, images(), like=Plain())
    assert type(found) is Plain
    assert equal_states(found, model)
    assert not storages(found) & (storages(model) | storages(result))


def test_layers_without_a_norm_in_the_twin_are_skips() -> None:
    plan = make_plan(Plain(), images(), like=Twin(norms=1))
    assert [(site.name, site.norm_name, site.result_name) for site in plan.sites] == [
        ("body.0", "features.1", "features.0")
    ]
    reasons = {skip.name: skip.reason for skip in plan.skips}
    assert reasons["body.2"] == "the twin Twin has no BatchNorm after it"
    assert "makes the model's output" in reasons["head"]


def test_a_twin_of_another_architecture_is_refused_naming_the_place() -> None:
    cases: list[tuple[nn.Module, str]] = [
        (Twin(channels=7), r"^features.0.*\(7, 3, 3, 3\).*, the model has 'body.0.weight' \(6, 3, 3, 3\)"),
        (Twin(bias=False), r"^features.0.weight: the twin Twin is not the same architecture"),
        (Twin(affine=False), r"^features.4: the twin's norm cannot be set to the identity"),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), "where the twin has nothing, the model has 'body.2.weight'"),
        (nn.Sequential(nn.BatchNorm2d(3), Plain()), "^0"),
    ]
    for twin, message in cases:
        with pytest.raises(InputRejectedError, match=message):
            make_plan(Plain(), images(), like=twin)


def test_a_norm_of_the_twin_after_a_layer_that_is_left_out_is_refused() -> None:
    with pytest.raises(InputRejectedError, match=r"^body.2: .*'features.4' after .*: it is excluded"):
        make_plan(Plain(), images(), like=Twin(), exclude=["body.2"])


def test_a_twin_with_a_place_too_many_or_too_few_is_refused_by_its_name() -> None:
    more, fewer = Twin(), Plain()
    more.extra = nn.Parameter(torch.zeros(2))
    fewer.register_buffer("extra", torch.zeros(2))
    with pytest.raises(InputRejectedError, match=r"^extra: the twin Twin adds a place"):
        make_plan(Plain(), images(), like=more)
    with pytest.raises(InputRejectedError, match=r"^extra: the twin Twin lacks a place"):
        make_plan(fewer, images(), like=Twin())


def test_a_folded_model_does_not_go_into_a_twin_that_has_norms() -> None:
    result = retrofit(Plain().eval(), [images(8)])
    with pytest.raises(InputRejectedError, match=r"'features.1' where the folded model has none"):
        fold(result, images(), like=Twin())


def test_a_plan_whose_twin_is_not_at_hand_says_so() -> None:
    model = Plain()
    plan = make_plan(model, images(), like=Twin())
    stats = {site.name: _unit(site.channels) for site in plan.sites}
    assert type(insert(model, plan, stats)) is Twin
    with pytest.raises(InputRejectedError, match="a Twin, which is not at hand"):
        insert(model, type(plan).from_json(plan.to_json()), stats)


def _unit(channels: int) -> ChannelStats:
    return ChannelStats(10, torch.zeros(channels).double(), torch.ones(channels).double())
