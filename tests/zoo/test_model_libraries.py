"""Architectures of torchvision and timm with random weights: twins, other heads, transformers."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from bnretrofit import fold, make_plan, retrofit
from bnretrofit.layers import kind_of
from tests.library.observing import equal_states, run

SLOW = pytest.mark.slow


def from_torchvision(name: str) -> Any:
    return torchvision.models.get_model(name).eval()


def from_timm(name: str) -> Any:
    return timm.create_model(name).eval()


def stock(build: Callable[[str], Any], name: str) -> Any:
    """An architecture without weights: enough for a twin."""
    with torch.device("meta"):
        return build(name)


@pytest.mark.parametrize("build", [from_torchvision, from_timm])
@pytest.mark.parametrize("name", ["vgg11", *(pytest.param(name, marks=SLOW) for name in ("vgg13", "vgg16", "vgg19"))])
def test_a_vgg_becomes_the_library_s_own_vgg_bn_and_comes_back(build: Any, name: str) -> None:
    # A VGG's dense layers are made for 224 px in torchvision, which pools to any size, and in timm, which does not.
    size = 224 if build is from_timm else 64
    model, twin = build(name), stock(build, f"{name}_bn")
    result = retrofit(model, [torch.randn(2, 3, size, size)], like=twin)
    assert type(result) is type(twin)
    if build is from_timm:
        assert result.feature_info == twin.feature_info
    fresh = twin.to_empty(device="cpu")
    fresh.load_state_dict(result.state_dict(), strict=True)
    x = torch.randn(2, 3, size, size)
    wanted = run(model, x)
    assert torch.equal(run(result, x), wanted)
    assert torch.equal(run(fresh, x), wanted)
    folded = fold(result, x, like=stock(build, name))
    assert type(folded) is type(model)
    assert equal_states(folded, model)


@pytest.mark.parametrize("name", ["vgg11", pytest.param("vgg16", marks=SLOW)])
def test_every_layer_of_timm_s_vgg_gets_a_norm_and_its_features_stay(name: str) -> None:
    model = from_timm(name)
    x = torch.randn(2, 3, 224, 224)
    plan = make_plan(model, x)
    wide = {site.name: site.channels for site in plan.sites if site.name.startswith("pre_logits")}
    assert wide == {"pre_logits.fc1": 4096, "pre_logits.fc2": 4096}
    assert [skip.name for skip in plan.skips] == ["head.fc"]
    result: Any = retrofit(model, [torch.randn(4, 3, 224, 224)])
    with torch.inference_mode():
        (last, features), (other_last, others) = (m.forward_intermediates(x) for m in (model, result))
    assert torch.equal(last, other_last)
    assert len(features) == len(others) == len(model.feature_info)
    assert all(torch.equal(mine, other) for mine, other in zip(features, others, strict=True))
    assert torch.equal(run(result, x), run(model, x))
    assert equal_states(fold(result, x), model)


@pytest.mark.parametrize(
    ("name", "size", "sites"),
    [
        ("convnext_atto", 64, True),
        ("vit_tiny_patch16_224", 224, True),
        ("resnet18", 64, False),
        ("mobilenetv3_small_100", 64, True),
        pytest.param("densenet121", 64, True, marks=SLOW),
        pytest.param("beit_base_patch16_224", 224, True, marks=SLOW),
    ],
)
def test_a_timm_network_keeps_its_function_and_folds_back(name: str, size: int, sites: bool) -> None:
    model = from_timm(name)
    # Else what initialisation leaves at zero would show nothing of what follows it.
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    plan = make_plan(model, torch.randn(2, 3, size, size))
    assert bool(plan.sites) == sites
    layers = {layer for layer, module in model.named_modules() if kind_of(module) is not None}
    decided = [site.name for site in plan.sites] + [skip.name for skip in plan.skips]
    assert layers <= set(decided)
    assert len(decided) == len(set(decided))
    assert all(skip.reason for skip in plan.skips)
    result = retrofit(model, [torch.randn(4, 3, size, size)])
    for samples in (1, 3):
        x = torch.randn(samples, 3, size, size)
        assert torch.equal(run(result, x), run(model, x))
    assert equal_states(fold(result, x), model)
