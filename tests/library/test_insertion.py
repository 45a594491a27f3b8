"""The model with norms: the same outputs, the same mode, its own memory, and an argument left alone."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import ChannelStats, calibrate, insert, make_plan
from bnretrofit.errors import InputRejectedError, UsageError, VerificationError
from bnretrofit.surgery import plan_of
from tests.library.networks import (
    CHAIN_SITES,
    CONVS,
    CalledTwice,
    Concatenated,
    Keywords,
    Residual,
    Tokens,
    chain,
    conv_then,
    images,
    input_of,
)
from tests.library.observing import observed, part, run, same, storages

MODELS: list[tuple[Any, Any]] = [
    (chain, images),
    (Residual, images),
    (Concatenated, images),
    (CalledTwice, images),
    (Tokens, lambda n=2: torch.randn(n, 5, 4)),
    (Tokens, lambda n=2: torch.randn(n, 3, 2, 4)),
    *((lambda kind=kind: conv_then(kind, 2), lambda n=2, kind=kind: input_of(kind, n)) for kind in CONVS),
]


def inserted(model: nn.Module, example: Any, **options: Any) -> Any:
    plan = make_plan(model, example)
    assert plan.sites
    return insert(model, plan, calibrate(model, plan, [example]), **options)


@pytest.mark.parametrize(("build", "draw"), MODELS)
def test_the_outputs_do_not_change_on_inputs_never_seen(build: Any, draw: Any) -> None:
    model = build()
    result = inserted(model, draw(8))
    for samples in (1, 7, 64):
        x = draw(samples) * 3
        assert torch.equal(run(result, x), run(model, x))


def test_dict_and_tuple_inputs_are_taken_as_the_model_takes_them() -> None:
    model = Keywords()
    x, extra = images(4), torch.randn(4, 2)
    for example in ({"image": x, "extra": extra}, (x, extra), (x, extra, 2.0)):
        result = inserted(model, example)
        found, wanted = run(result, x, extra), run(model, x, extra)
        assert found.keys() == wanted.keys() == {"logits", "features"}
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_of_other_dtypes_keep_their_outputs(dtype: torch.dtype) -> None:
    model = chain().to(dtype)
    result = inserted(model, images(8).to(dtype))
    norm_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    assert part(result, "0.norm").weight.dtype == norm_dtype
    assert part(result, "0.layer").weight.dtype == dtype
    x = images(5).to(dtype)
    assert run(result, x).dtype == dtype
    assert torch.equal(run(result, x), run(model, x))


def test_outputs_do_not_change_in_channels_last_or_under_autocast() -> None:
    model, x = chain(), images(7)
    result = inserted(model, images(8))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(result, x), run(model, x))
    model, result = (m.to(memory_format=torch.channels_last) for m in (model, result))
    x = x.to(memory_format=torch.channels_last)
    assert torch.equal(run(result, x), run(model, x))


def test_all_stays_in_its_place() -> None:
    model = chain()
    result = inserted(model, images(8))
    assert type(result) is nn.Sequential
    assert len(result) == len(model)
    for name in CHAIN_SITES:
        assert torch.equal(part(result, name).layer.weight, part(model, name).weight)
    added = {key for key in result.state_dict() if ".norm." in key}
    kept = [key.replace(".layer.", ".") for key in result.state_dict() if key not in added]
    assert kept == list(model.state_dict())
    assert len(added) == 5 * len(CHAIN_SITES)


@pytest.mark.parametrize("training", [True, False])
def test_the_argument_is_left_alone_and_shares_no_memory(training: bool) -> None:
    model = chain().train(training)
    part(model, "4").register_forward_hook(lambda *_: None)
    part(model, "4").weight.requires_grad_(False)
    before = observed(model)
    result = inserted(model, images(8))
    assert same(before, observed(model))
    assert not storages(model) & storages(result)
    assert {module.training for module in result.modules()} == {training}
    assert not part(result, "4.layer").weight.requires_grad
    assert part(result, "4.layer").bias.requires_grad
    assert len(part(result, "4.layer")._forward_hooks) == 1


def test_tied_layers_that_are_one_module_stay_one() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(4, 2))
    result = inserted(model, torch.randn(8, 4))
    assert result[0] is result[2]
    x = torch.randn(5, 4)
    assert torch.equal(run(result, x), run(model, x))


def test_standardise_starts_from_the_unit_norm() -> None:
    model, x = chain(), images(32)
    result = inserted(model, x, init="standardize")
    norm = part(result, "0.norm")
    assert bool((norm.weight == 1).all())
    assert not bool(norm.bias.any())
    y = run(part(result, "0"), x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(6), rtol=0, atol=1e-4)
    torch.testing.assert_close(y.var((0, 2, 3)), torch.ones(6), rtol=1e-3, atol=0)


def test_the_plan_is_noted_on_the_result_only() -> None:
    model, x = chain(), images(8)
    plan = make_plan(model, x)
    result = insert(model, plan, calibrate(model, plan, [x]))
    assert plan_of(result) == plan
    assert plan_of(model) is None


def changed(stats: dict[str, ChannelStats], **values: Any) -> dict[str, ChannelStats]:
    return {name: dataclasses.replace(found, **values) for name, found in stats.items()}


def test_what_does_not_fit_is_refused_and_the_model_left_alone() -> None:
    model, x = chain().train(), images(8)
    plan = make_plan(model, x)
    stats = calibrate(model, plan, [x])
    before = observed(model)
    wrong: list[tuple[Any, Any, Any, str]] = [
        (chain(), plan, {}, "^0: there are no statistics for the site"),
        (nn.Sequential(), plan, stats, "^0: the plan names a layer that the model does not have"),
        (nn.Sequential(nn.Linear(3, 6)), plan, stats, "^0: the plan has a Conv2d of 6 channels, the model a Linear"),
        (nn.Sequential(nn.Conv2d(3, 7, 3)), plan, stats, "^0: the plan has a Conv2d of 6 channels"),
        (model, plan, changed(stats, mean=torch.zeros(9)), "^0: the statistics are not those of 6 channels"),
        (model, plan, changed(stats, count=1), "^0: a variance needs more than one value"),
        (
            model,
            plan,
            changed(stats, var=torch.full((6,), torch.nan)) | {"4": stats["4"], "8": stats["8"]},
            "^0: .*not finite",
        ),
    ]
    for argument, choice, measured, message in wrong:
        with pytest.raises(InputRejectedError, match=message):
            insert(argument, choice, measured)
    with pytest.raises(UsageError, match="unknown init 'zero'"):
        insert(model, plan, stats, init="zero")
    assert same(before, observed(model))


def test_a_plan_whose_norm_would_not_run_is_refused() -> None:
    class Either(nn.Module):
        def __init__(self, around: bool) -> None:
            super().__init__()
            self.body, self.head, self.around = nn.Linear(4, 4), nn.Linear(4, 2), around

        def forward(self, x: Tensor) -> Any:
            y = nn.functional.linear(x, self.body.weight) if self.around else self.body(x)
            return self.head(y.relu())

    x = torch.randn(8, 4)
    plan = make_plan(Either(around=False), x)
    stats = calibrate(Either(around=False), plan, [x])
    with pytest.raises(VerificationError, match=r"^body: the model goes around the norm"):
        insert(Either(around=True), plan, stats)
