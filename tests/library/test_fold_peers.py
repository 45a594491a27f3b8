"""The networks that break folding tools: ours is right or refuses, and the benchmark that says so can tell."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks import fold_costs
from benchmarks.fold_networks import CASES, Case
from benchmarks.fold_peers import OURS, TOOLS, outcome_of
from bnretrofit import RetrofitError
from bnretrofit.errors import InputRejectedError

CONV = next(case for case in CASES if case.name == "conv, affine=False")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ours_is_never_wrong(case: Case) -> None:
    outcome = outcome_of(case, OURS)
    assert outcome.sound, outcome
    assert outcome.verdict in ("exact", "refused")
    assert bool(outcome.said) == bool(outcome.left)  # what is left is named, with its reason


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_the_same_each_time(case: Case) -> None:
    first, second = case.network().state_dict(), case.network().state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert torch.equal(case.inputs(), case.inputs())


def dropping(model: nn.Module, _: Tensor) -> tuple[nn.Module, str]:
    return nn.Sequential(next(iter(model.children()))), ""


def reshaping(model: nn.Module, _: Tensor) -> tuple[nn.Module, str]:
    return nn.Sequential(model, nn.Flatten()), ""


def overflowing(model: nn.Module, _: Tensor) -> tuple[nn.Module, str]:
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(torch.inf)
    return model, ""


def failing(_: nn.Module, inputs: Tensor) -> tuple[nn.Module, str]:
    raise ValueError(f"shape {tuple(inputs.shape)}\nand more")


def unproved(_: nn.Module, __: Tensor) -> tuple[nn.Module, str]:
    raise RetrofitError("the folded model is not the same function")


def declining(_: nn.Module, __: Tensor) -> tuple[nn.Module, str]:
    raise InputRejectedError("no")


def keeping(model: nn.Module, _: Tensor) -> tuple[nn.Module, str]:
    return model, ""


@pytest.mark.parametrize(
    ("tool", "verdict", "sound"),
    [
        (dropping, "wrong", False),
        (reshaping, "wrong", False),
        (overflowing, "wrong", False),
        (failing, "raised", False),
        (unproved, "raised", False),
        (declining, "refused", True),
        (keeping, "refused", True),
    ],
)
def test_the_verdict_is_of_what_was_computed(
    monkeypatch: pytest.MonkeyPatch,
    tool: Callable[[nn.Module, Tensor], tuple[nn.Module, str]],
    verdict: str,
    sound: bool,
) -> None:
    monkeypatch.setitem(TOOLS, "planted", tool)
    outcome = outcome_of(CONV, "planted")
    assert (outcome.verdict, outcome.sound) == (verdict, sound)


def test_the_cost_of_folding_is_of_what_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = CONV.network, CONV.inputs()
    found = fold_costs.measured(network, inputs, OURS, 2)
    assert (found["norms"], found["left"], found["sound"]) == (1, 0, True)
    assert len(found["seconds"]) == len(found["forward_seconds"]) == 2
    monkeypatch.setitem(fold_costs.CONTENDERS, "planted", dropping)
    assert not fold_costs.measured(network, inputs, "planted", 1)["sound"]
    monkeypatch.setitem(fold_costs.CONTENDERS, "planted", failing)
    said = fold_costs.measured(network, inputs, "planted", 1)
    assert str(fold_costs.row("planted", said)[1]).startswith("raised ValueError")
