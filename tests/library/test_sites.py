"""Decisions as data: to JSON and back, and what is no plan."""

import dataclasses
import json
from typing import Any

import pytest
import torch

from bnretrofit import Plan, Site, Skip, make_fold_plan, make_plan
from bnretrofit.errors import InputRejectedError
from tests.library.networks import CalledTwice, Keywords, TwoNorms, chain, images, with_own_norms

MODELS: list[tuple[Any, Any]] = [
    (chain(), images()),
    (CalledTwice(), images()),
    (Keywords(), {"image": images(), "extra": torch.randn(2, 2), "scale": 2.0}),
]


@pytest.mark.parametrize(("model", "example"), MODELS)
def test_a_plan_survives_json(model: Any, example: Any) -> None:
    plan = make_plan(model, example)
    assert plan.sites
    assert plan.skips
    found = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert found == plan


def test_a_plan_like_a_twin_survives_json_without_the_twin() -> None:
    twin = with_own_norms()
    plain = type(twin)(*(module for module in with_own_norms() if "Norm" not in type(module).__name__))
    plan = make_plan(plain, images(), like=twin)
    assert plan.like is twin
    found = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert found == plan
    assert found.twin == "Sequential"
    assert found.tensors == plan.tensors != {}
    assert found.like is None


def test_plans_that_differ_are_not_equal() -> None:
    plan = make_plan(chain(), images())
    assert plan == make_plan(chain(), images())
    assert plan != make_plan(chain(), images(), layers="conv")
    assert plan != dataclasses.replace(plan, notes=("another",))


def test_decisions_cannot_be_changed_in_place() -> None:
    site: Any = make_plan(chain(), images()).sites[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        site.channels = 3
    assert isinstance(site, Site)


def changed(**values: Any) -> Any:
    return {**make_plan(chain(), images()).to_json(), **values}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "this is no plan"),
        ([], "this is no plan"),
        ({}, "this is no plan: KeyError: 'schema_version'"),
        (changed(schema_version=99), "schema version 99"),
        (changed(sites=[{"name": "0"}]), "this is no plan"),
        (changed(skips=[{"name": "0", "kind": "Linear", "reason": "no", "more": 1}]), "this is no plan"),
        (changed(sites=None), "this is no plan"),
    ],
)
def test_what_is_no_plan_is_refused(document: Any, message: str) -> None:
    with pytest.raises(InputRejectedError, match=message):
        Plan.from_json(document)


def test_a_skip_is_found_by_its_three_words() -> None:
    plan = make_plan(chain(), images(), exclude=["0"])
    assert plan.skips[0] == Skip("0", "Conv2d", "it is excluded by the pattern '0'")


def test_a_fold_plan_is_a_json_document() -> None:
    folds = make_fold_plan(with_own_norms().eval(), images())
    document = json.loads(json.dumps(folds.to_json()))
    assert [found["norm"] for found in document["folds"]] == ["1", "4"]
    assert document["leaves"] == []
    leaves = json.loads(json.dumps(make_fold_plan(TwoNorms().eval(), images()).to_json()))
    assert [found["name"] for found in leaves["leaves"]] == ["first", "second"]
    assert all(found["reason"] for found in leaves["leaves"])
