"""Layers replaced in their places, and the second look that shows whether the model runs what was put in."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import Plan, make_plan, retrofit
from bnretrofit.capture import capture, op_of
from bnretrofit.layers import LAYER_OPS
from bnretrofit.norms import ChannelsLastBatchNorm1d
from bnretrofit.standing import Normed
from bnretrofit.surgery import bypassed_sites, inserted_norms, norm_after, place_norms, plan_of, record_plan
from tests.library.networks import ReadBesides, Tokens, chain, images, with_own_norms
from tests.library.observing import observed, part, randomised, same


def test_a_norm_is_put_in_its_layer_s_place() -> None:
    model = chain()
    plan = make_plan(model, images())
    layers = [model[0], model[4], model[8]]
    found = place_norms(model, plan.sites, {site.name: nn.BatchNorm2d(site.channels) for site in plan.sites})
    assert found is model
    assert len(model) == 12
    assert [part(model, name).layer for name in ("0", "4", "8")] == layers
    assert type(part(model, "0")) is Normed


def test_a_layer_under_two_names_is_replaced_under_both() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Sequential(shared, nn.ReLU()), shared, nn.ReLU(), nn.Linear(4, 2))
    plan = make_plan(model, torch.zeros(2, 4))
    place_norms(model, plan.sites, {"0.0": nn.BatchNorm1d(4)})
    assert part(model, "0.0") is part(model, "1")
    assert part(model, "1.layer") is shared


def test_a_model_that_is_itself_the_site_gets_a_new_root() -> None:
    layer = nn.Conv2d(3, 4, 3)
    plan = make_plan(layer, images(), include=[""])
    (site,) = plan.sites
    assert (site.name, site.norm_name, site.result_name) == ("", "norm", "layer")
    found = place_norms(layer, plan.sites, {"": nn.BatchNorm2d(4)})
    assert type(found) is Normed
    assert part(found, "layer") is layer


def test_a_recorded_plan_is_found_again() -> None:
    plan = Plan((), (), {})
    model = record_plan(chain(), plan)
    assert plan_of(model) == plan
    assert plan_of(chain()) is None


def test_inserted_norms_are_told_from_a_network_s_own() -> None:
    assert inserted_norms(with_own_norms()) is None
    assert inserted_norms(retrofit(randomised(chain()), [images(8)])) == {"0.norm", "4.norm", "8.norm"}
    whole = nn.ModuleDict({"body": retrofit(randomised(chain()), [images(8)]), "own": with_own_norms()})
    assert inserted_norms(whole) == {"body.0.norm", "body.4.norm", "body.8.norm"}


class Around(nn.Module):
    """Calls its layer, and reads its weight besides."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head((self.body(x) + nn.functional.linear(x, self.body.weight)).relu())


class Unless(nn.Module):
    """Calls its layer only while nobody has replaced it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        body = self.body
        y = body(x) if type(body) is nn.Linear else nn.functional.linear(x, body.weight, body.bias)
        return self.head(y.relu())


@pytest.mark.parametrize("model", [Around(), Unless()])
def test_a_norm_that_the_model_goes_around_is_seen(model: nn.Module) -> None:
    site = dataclasses.replace(
        make_plan(chain(), images()).sites[2], name="body", norm_name="body.norm", result_name="body.layer"
    )
    site = dataclasses.replace(site, channels=4)
    before = observed(model)
    reasons, notes = bypassed_sites(model, [site], torch.zeros(2, 4), training=True)
    assert "goes around a norm after it in eval mode" in reasons["body"]
    assert notes == []
    assert same(before, observed(model))
    assert "body" in {skip.name for skip in make_plan(model, torch.zeros(2, 4)).skips}


def test_norms_that_are_run_are_not_called_bypassed() -> None:
    model = chain()
    assert bypassed_sites(model, make_plan(model, images()).sites, images(1), training=True) == ({}, [])
    assert bypassed_sites(model, [], images(), training=True) == ({}, [])


def test_the_norm_that_alone_reads_a_layer_is_found() -> None:
    def found(model: nn.Module, example: Tensor) -> list[str | None]:
        graph = capture(model, example)
        norms = [norm_after(node) for node in graph.nodes if op_of(node) in LAYER_OPS]
        return [None if norm is None else graph.owners[norm] for norm in norms]

    assert found(with_own_norms(), images()) == ["1", "4", None]
    assert found(ReadBesides(), images()) == [None]
    assert found(chain(), images()) == [None] * 4
    tokens = Tokens()
    tokens.first = Normed(tokens.first, ChannelsLastBatchNorm1d(6))  # type: ignore[assignment]
    assert found(tokens, torch.zeros(2, 5, 4)) == ["first.norm", None, None]
