"""retrofit is its three stages, and the public names are the ones promised."""

import inspect
from typing import Any

import pytest
import torch

import bnretrofit
from bnretrofit import calibrate, finetune, fold, insert, make_fold_plan, make_plan, retrofit, verify
from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.standardising import standardize
from tests.library.networks import chain, images
from tests.library.observing import equal_states, observed, run, same

CHOICES = [("include", None), ("exclude", None), ("layers", ("conv", "dense")), ("placement", "pre"), ("like", None)]
EMPTY = inspect.Parameter.empty


@pytest.mark.parametrize(
    ("function", "positional", "keywords"),
    [
        (make_plan, ["model", "example"], CHOICES),
        (calibrate, ["model", "plan", "batches"], [("across_ranks", False)]),
        (insert, ["model", "plan", "stats"], [("init", "identity")]),
        (retrofit, ["model", "batches"], [("init", "identity"), *CHOICES]),
        (make_fold_plan, ["model", "example"], []),
        (fold, ["model", "example"], [("like", None), ("force", False), ("allow_new_layers", False)]),
        (
            verify,
            ["a", "b", "batches"],
            [("rtol", None), ("atol", None), ("per_layer", False), ("adversarial_steps", 0), ("training", False)],
        ),
        (finetune, ["model", "train", "val", "config"], []),
    ],
)
def test_the_signatures_are_the_ones_promised(
    function: Any, positional: list[str], keywords: list[tuple[str, Any]]
) -> None:
    parameters = list(inspect.signature(function).parameters.values())
    found = [(p.name, p.default) for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert found == [(name, EMPTY) for name in positional]
    named = [(p.name, p.default) for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert named == keywords
    assert len(parameters) == len(positional) + len(keywords)


def test_the_public_names_are_there() -> None:
    promised = {"retrofit", "finetune", "fold", "verify", "make_plan", "calibrate", "insert"}
    promised |= {"Plan", "Site", "ChannelStats", "Report", "RetrofitError"}
    assert promised <= set(bnretrofit.__all__)
    assert all(hasattr(bnretrofit, name) for name in bnretrofit.__all__)


@pytest.mark.parametrize(
    ("kind", "promised"),
    [
        (bnretrofit.Plan, ["sites", "skips"]),
        (bnretrofit.Site, ["name", "kind", "channels", "calls"]),
        (bnretrofit.Skip, ["name", "reason"]),
        (bnretrofit.ChannelStats, ["count", "mean", "var"]),
        (bnretrofit.FoldPlan, ["folds", "leaves"]),
        (
            bnretrofit.Report,
            [
                "passed",
                "proved",
                "bit_identical",
                "max_abs_error",
                "max_rel_error",
                "top1_agreement",
                "samples",
                "required_rtol",
            ],
        ),
    ],
)
def test_the_public_classes_have_the_promised_fields(kind: Any, promised: list[str]) -> None:
    assert set(promised) <= set(kind.__dataclass_fields__)


def test_retrofit_is_its_three_stages() -> None:
    model, batches = chain(), [images(4), images(3)]
    plan = make_plan(model, batches[0], layers="conv", exclude=["4"])
    by_hand = insert(model, plan, calibrate(model, plan, batches))
    found = retrofit(model, batches, layers="conv", exclude=["4"])
    assert equal_states(found, by_hand)
    by_hand = standardize(model, plan, batches)
    assert equal_states(retrofit(model, iter(batches), init="standardize", layers="conv", exclude=["4"]), by_hand)
    assert [name for name, _ in found.named_modules() if name.endswith(".norm")] == ["0.norm"]


def test_batches_are_gone_through_once() -> None:
    model, x = chain(), images(6)
    drawn = 0

    def batches() -> Any:
        nonlocal drawn
        for batch in x.split(2):
            drawn += 1
            yield batch

    found = retrofit(model, batches())
    assert drawn == 3
    assert equal_states(found, retrofit(model, list(x.split(2))))
    assert torch.equal(run(found, x), run(model, x))


def test_retrofit_of_a_retrofitted_model_is_the_same_function_again() -> None:
    model, x = chain(), images(8)
    once = retrofit(model, [x], include=["0"])
    twice = retrofit(once, [x])
    assert [name for name, _ in twice.named_modules() if name.endswith(".norm")] == ["0.norm", "4.norm", "8.norm"]
    assert torch.equal(run(twice, x), run(model, x))


def test_a_refusal_leaves_the_model_alone() -> None:
    model = chain()
    before = observed(model)
    with pytest.raises(InputRejectedError, match="no batch to calibrate with"):
        retrofit(model, [])
    with pytest.raises(UsageError, match="matches no conv or dense layer"):
        retrofit(model, [images()], include=["nothing"])
    assert same(before, observed(model))
