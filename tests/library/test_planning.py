"""Every conv and dense layer is a site, or a skip with the reason."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import make_plan, retrofit
from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.layers import kind_of
from tests.library.networks import (
    CONVS,
    CalledTwice,
    Concatenated,
    Functional,
    NeverCalled,
    Residual,
    StandardisedConv,
    Tied,
    Tokens,
    chain,
    conv_then,
    images,
    input_of,
    reparametrised,
    with_own_norms,
)
from tests.library.observing import observed, randomised, same

HEAD = "makes the model's output"


class Encoder(nn.Module):
    """A transformer block as torch has it, whose fast path reads weights and calls no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.block(self.embed(x).relu()).mean(1))


class TwoRanks(nn.Module):
    """A dense layer called on (N, C) and on (N, L, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.dense(self.dense(x).relu().mean(1)).relu())


class Unbatched(nn.Module):
    """A dense layer on a vector without batch dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x.mean(0)).relu()[None])


def standardised() -> nn.Sequential:
    return nn.Sequential(StandardisedConv(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))


CASES: list[tuple[Any, Any, list[str], dict[str, str]]] = [
    (chain, images, ["0", "4", "8"], {"11": HEAD}),
    (Residual, images, ["conv1", "conv2"], {"head": HEAD}),
    (Concatenated, images, ["narrow", "wide", "join"], {"head": HEAD}),
    (CalledTwice, images, ["conv"], {"head": HEAD}),
    (
        Tied,
        lambda: torch.zeros(2, 4),
        [],
        {"first": "its weight is tied", "second": "its weight is tied", "head": HEAD},
    ),
    (
        Functional,
        lambda: torch.zeros(2, 4),
        [],
        {
            "inner": "is used by the model's own forward .* without calling",
            "bare": "applies this parameter",
            "head": HEAD,
        },
    ),
    (NeverCalled, lambda: torch.zeros(2, 4), ["body"], {"auxiliary": "never calls it in eval mode", "head": HEAD}),
    (standardised, images, ["2"], {"0": "changed before it is used", "4": HEAD}),
    (lambda: reparametrised("old"), images, ["0", "8"], {"4": "re-parametrised", "11": HEAD}),
    (lambda: reparametrised("new"), images, ["0", "8"], {"4": "re-parametrised", "11": HEAD}),
    (with_own_norms, images, [], {"0": "BatchNorm2d '1' already normalises", "3": "BatchNorm2d '4'", "8": HEAD}),
    (TwoRanks, lambda: torch.zeros(2, 3, 4), [], {"dense": "inputs of different ranks", "head": HEAD}),
    (Unbatched, lambda: torch.zeros(2, 4), [], {"body": "no batch dimension", "head": HEAD}),
    (
        Encoder,
        lambda: torch.zeros(2, 5, 3),
        ["embed"],
        {
            "block.self_attn.out_proj": "is used by MultiheadAttention",
            "block.linear1": "nn.TransformerEncoderLayer goes around",
            "block.linear2": "nn.TransformerEncoderLayer goes around",
            "head": HEAD,
        },
    ),
]


@pytest.mark.parametrize(("build", "example", "sites", "skips"), CASES)
def test_every_layer_is_a_site_or_a_skip_with_its_reason(
    build: Any, example: Any, sites: list[str], skips: dict[str, str]
) -> None:
    model = build()
    before = observed(model)
    plan = make_plan(model, example())
    assert same(before, observed(model))
    assert [site.name for site in plan.sites] == sites
    # What torch's attention calls functionally on its own parameter has no module.
    found = {skip.name: skip.reason for skip in plan.skips if not skip.name.endswith("in_proj_weight")}
    assert found.keys() == skips.keys()
    for name, reason in skips.items():
        assert re.search(reason, found[name]), found[name]
    layers = {name for name, module in model.named_modules() if kind_of(module) is not None}
    assert layers <= {*sites, *found}


@pytest.mark.parametrize("kind", CONVS)
def test_a_site_says_what_goes_in_and_where(kind: str) -> None:
    (site,) = make_plan(conv_then(kind), input_of(kind)).sites
    assert (site.name, site.kind, site.channels, site.calls) == ("0", kind, 6, 1)
    assert (site.norm, site.channel_dim) == (CONVS[kind][1].__name__, 1)
    assert (site.norm_name, site.result_name) == ("0.norm", "0.layer")


@pytest.mark.parametrize("shape", [(2, 7, 4), (2, 3, 5, 4)])
def test_dense_layers_on_tokens_get_a_norm_of_the_last_dimension(shape: tuple[int, ...]) -> None:
    plan = make_plan(Tokens(), torch.zeros(shape))
    assert [(site.norm, site.channel_dim) for site in plan.sites] == [("ChannelsLastBatchNorm1d", -1)] * 2


def test_a_layer_called_twice_is_one_site_of_two_calls() -> None:
    (site,) = make_plan(CalledTwice(), images()).sites
    assert site.calls == 2


def test_a_head_is_taken_only_when_it_is_named_in_full() -> None:
    assert [site.name for site in make_plan(chain(), images(), include=["11", "0"]).sites] == ["0", "11"]
    assert [site.name for site in make_plan(chain(), images(), include=["*"]).sites] == ["0", "4", "8"]


def test_patterns_and_families_choose_the_sites() -> None:
    plan = make_plan(chain(), images(), include=["[04]"], exclude=["4"])
    assert [site.name for site in plan.sites] == ["0"]
    assert {skip.name: skip.reason for skip in plan.skips} == {
        "4": "it is excluded by the pattern '4'",
        "8": "no --include pattern matches it",
        "11": "no --include pattern matches it",
    }
    assert [site.name for site in make_plan(chain(), images(), layers="dense").sites] == ["8"]
    assert [site.name for site in make_plan(chain(), images(), layers=["conv"]).sites] == ["0", "4"]


def test_a_pattern_that_matches_nothing_names_the_nearest_layer() -> None:
    with pytest.raises(UsageError, match=r"'conv3' matches no conv or dense layer. Did you mean conv"):
        make_plan(Residual(), images(), exclude=["conv3"])


def test_planning_computes_nothing() -> None:
    with torch.device("meta"):
        model = chain()
    assert [site.name for site in make_plan(model, images()).sites] == ["0", "4", "8"]


def test_a_retrofitted_model_has_nothing_left_to_insert() -> None:
    model = retrofit(randomised(chain()), [images(8)])
    plan = make_plan(model, images())
    assert plan.sites == ()
    assert {skip.name for skip in plan.skips} == {"0.layer", "4.layer", "8.layer", "11"}


def test_a_model_that_goes_around_its_layer_in_training_is_seen() -> None:
    class Hasty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            y = nn.functional.linear(x, self.body.weight, self.body.bias) if self.training else self.body(x)
            return self.head(y.relu())

    plan = make_plan(Hasty(), torch.zeros(2, 4))
    assert plan.sites == ()
    assert "goes around a norm after it in training mode" in plan.skips[-1].reason


def test_a_training_mode_that_cannot_be_captured_is_noted() -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            if self.training:
                message = "not for training"
                raise ValueError(message)
            return self.head(self.body(x).relu())

    plan = make_plan(Strict(), torch.zeros(2, 4))
    assert [site.name for site in plan.sites] == ["body"]
    assert "training mode could not be checked" in plan.notes[0]


def test_a_model_that_does_not_take_the_example_is_refused() -> None:
    with pytest.raises(InputRejectedError, match="cannot be captured"):
        make_plan(chain(), torch.zeros(2, 7))


def test_the_layers_that_a_network_names_its_classifier_are_left_to_it() -> None:
    class WeightedHeads(nn.Module):
        """Three heads, each on what the blocks before it make: timm's EfficientViM."""

        def __init__(self, **names: Any) -> None:
            super().__init__()
            self.stem = nn.Linear(3, 4)
            self.heads = nn.ModuleList(nn.Linear(4, 5) for _ in range(3))
            self.weights = nn.Parameter(torch.randn(3))
            self.default_cfg = names

        def forward(self, x: Tensor) -> Any:
            x = self.stem(x).relu()
            return sum(weight * head(x) for weight, head in zip(self.weights.softmax(0), self.heads, strict=True))

    x = torch.randn(6, 3)
    heads = ["heads.0", "heads.1", "heads.2"]
    plan = make_plan(WeightedHeads(classifier=tuple(heads)).eval(), x)
    assert [site.name for site in plan.sites] == ["stem"]
    assert all(HEAD in skip.reason for skip in plan.skips)
    assert "heads.1" in {
        s.name for s in make_plan(WeightedHeads(classifier=heads).eval(), x, include=["heads.1"]).sites
    }
    assert [site.name for site in make_plan(WeightedHeads(classifier="heads").eval(), x).sites] == ["stem"]
    for nothing in ({}, {"classifier": None}, {"classifier": "absent"}, {"classifier": 5}, {"classifier": [["x"]]}):
        assert len(make_plan(WeightedHeads(**nothing).eval(), x).sites) == 4
