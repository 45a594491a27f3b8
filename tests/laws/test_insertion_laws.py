"""For every network: insertion keeps the function, folding takes it back bit for bit, and nothing else changes."""

import json
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnretrofit import Plan, calibrate, fold, insert, make_fold_plan, make_plan, verify
from bnretrofit.layers import kind_of
from tests.laws.generated import Network, networks
from tests.library.observing import equal_states, observed, run, same, storages

EXAMPLES = 40
PLACEMENTS = st.sampled_from(["pre", "post"])


def inserted(network: Network, model: Any, placement: str) -> tuple[Plan, Any]:
    example = network.draw(6)
    plan = make_plan(model, example, placement=placement)
    return plan, insert(model, plan, calibrate(model, plan, [example, network.draw(3)]))


@settings(max_examples=EXAMPLES)
@given(network=networks(norms=True), samples=st.sampled_from([1, 7]), placement=PLACEMENTS)
def test_insertion_preserves_the_function_on_unseen_inputs(network: Network, samples: int, placement: str) -> None:
    model = network.build()
    before = observed(model)
    _, result = inserted(network, model, placement)
    assert same(before, observed(model))
    assert not storages(model) & storages(result)
    x = network.draw(samples, seed=1) * 10
    assert torch.equal(run(result, x), run(model, x))


@settings(max_examples=EXAMPLES)
@given(network=networks(norms=True), placement=PLACEMENTS)
def test_what_is_inserted_is_proved_and_folds_back_to_the_same_bits(network: Network, placement: str) -> None:
    model = network.build()
    plan, result = inserted(network, model, placement)
    before = observed(result)
    folded = fold(result, network.draw(2))
    assert same(before, observed(result))
    assert equal_states(folded, model)
    if plan.sites:
        folds = {found.norm: found for found in make_fold_plan(result, network.draw(2)).folds}
        assert folds.keys() == {site.norm_name for site in plan.sites}
        assert all(found.unchanged == found.channels for found in folds.values())
    report = verify(model, result, [network.draw(2, seed=2)])
    assert report.passed
    assert report.proved, report.difference
    assert report.bit_identical


@settings(max_examples=EXAMPLES)
@given(network=networks(norms=True), placement=PLACEMENTS)
def test_every_layer_is_a_site_or_a_skip_and_the_plan_survives_json(network: Network, placement: str) -> None:
    model = network.build()
    before = observed(model)
    plan = make_plan(model, network.draw(2), placement=placement)
    assert same(before, observed(model))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    layers = [name for name, module in model.named_modules() if kind_of(module) is not None]
    assert sorted(layers) == sorted([site.name for site in plan.sites] + [skip.name for skip in plan.skips])
    assert all(skip.reason for skip in plan.skips)
