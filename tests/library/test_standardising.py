"""Norms for networks not yet trained: mean 0 and variance 1 out of each, measured in its place; and a judge of that."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import make_plan
from bnretrofit.affine import fixed_norm
from bnretrofit.errors import InputRejectedError
from bnretrofit.sites import Plan
from bnretrofit.standardising import standardize
from bnretrofit.unit_outputs import BOUND, check_unit_outputs
from tests.library.networks import CalledTwice, Keywords, Residual, chain, images
from tests.library.observing import observed, part, run, same


def deep(std: float, depth: int = 50) -> nn.Sequential:
    """A plain stack of convs, badly initialised."""
    layers: list[nn.Module] = []
    for number in range(depth):
        conv = nn.Conv2d(16 if number else 3, 16, 3, padding=1)
        nn.init.normal_(conv.weight, std=std)
        nn.init.zeros_(conv.get_parameter("bias"))
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()


def standardized(model: nn.Module, batches: list[Any]) -> tuple[Any, Plan]:
    plan = make_plan(model, batches[0])
    assert plan.sites
    return standardize(model, plan, batches), plan


def put_out(model: nn.Module, name: str, batches: list[Tensor]) -> Tensor:
    """What a norm puts out, (C, elements), without the code under test."""
    seen: list[Tensor] = []
    handle = part(model, name).register_forward_hook(lambda *given: seen.append(given[2].clone()))
    for batch in batches:
        run(model, batch)
    handle.remove()
    return torch.cat([found.movedim(1, 0).flatten(1) for found in seen], 1).double()


def assert_unit(model: nn.Module, plan: Plan, batches: list[Tensor], bound: float = 1e-3) -> None:
    for site in plan.sites:
        found, norm = put_out(model, site.norm_name, batches), part(model, site.norm_name)
        wanted = norm.running_var.double() / (norm.running_var.double() + norm.eps)
        assert float(found.mean(1).abs().max()) < bound, site.name
        assert float((found.var(1) - wanted).abs().max()) < bound, site.name


@pytest.mark.parametrize("std", [1.0, 1e-3])
def test_fifty_layers_that_overflow_or_vanish_become_trainable(std: float) -> None:
    model, x = deep(std), torch.rand(6, 3, 6, 6)
    last = run(model[:-3], x)
    assert not bool(last.isfinite().all()) if std == 1 else float(last.detach().abs().max()) < 1e-30
    result, plan = standardized(model, [x])
    assert len(plan.sites) == 50
    assert_unit(result, plan, [x], bound=1e-4)
    result.train()(x).square().sum().backward()
    gradient = result[0].layer.weight.grad
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("model", [chain(), Residual()], ids=["chain", "residual"])
def test_several_batches_are_one_calibration_set(
    model: nn.Module, joined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not joined:
        monkeypatch.setattr("bnretrofit.sweeping.JOINED_BYTES", 1)
    batches = [images(4), images(5) + 3, images(3) * 2]
    before = observed(model)
    result, plan = standardized(model, batches)
    assert same(before, observed(model))
    assert result.training is model.training
    assert_unit(result.eval(), plan, batches)
    assert check_unit_outputs(result, [site.norm_name for site in plan.sites], batches).passed


def test_statistics_of_the_plain_network_are_rejected() -> None:
    from bnretrofit import calibrate, insert

    model, x = chain().eval(), images(16)
    plan = make_plan(model, x)
    result = insert(model, plan, calibrate(model, plan, [x]), init="standardize")
    report = check_unit_outputs(result, [site.norm_name for site in plan.sites], [x])
    assert not report.passed
    assert report.layer != plan.sites[0].norm_name


def test_a_layer_that_is_called_twice_settles() -> None:
    model, x = CalledTwice().eval(), images(16)
    result, plan = standardized(model, [x])
    assert max(site.calls for site in plan.sites) == 2
    assert check_unit_outputs(result, [site.norm_name for site in plan.sites], [x]).passed


def test_batches_of_keywords_are_not_joined() -> None:
    batches = [{"image": images(6), "extra": torch.randn(6, 2), "scale": 2.0} for _ in range(2)]
    result, plan = standardized(Keywords().eval(), batches)
    report = check_unit_outputs(result, [site.norm_name for site in plan.sites], batches)
    assert report.passed
    assert report.samples == 12


def test_a_joined_batch_that_does_not_fit_is_taken_apart_again() -> None:
    class Cramped(nn.Sequential):
        def forward(self, input: Tensor) -> Any:  # noqa: A002 - nn.Sequential's own name for it
            if len(input) > 4:
                raise torch.OutOfMemoryError("out of memory")
            for layer in self:
                input = layer(input)  # noqa: A001
            return input

    model, batches = Cramped(*chain()).eval(), [images(4), images(4), images(4)]
    result, plan = standardized(model, batches)
    assert_unit(result, plan, batches)
    with pytest.raises(torch.OutOfMemoryError):
        standardize(model, plan, [images(5)])


def test_a_dead_channel_is_told_and_nothing_is_divided_by_zero() -> None:
    model, x = chain().eval(), images(16)
    with torch.no_grad():
        part(model, "0").weight[2].zero_()
    result, plan = standardized(model, [x])
    report = check_unit_outputs(result, [site.norm_name for site in plan.sites], [x])
    assert report.passed
    assert (report.decided_by_eps, report.smallest_variance) == (1, 0.0)
    assert f"eps decides on 1 of {report.channels} channels" in str(report)
    assert bool(run(result, x).isfinite().all())


def test_what_cannot_be_measured_is_refused() -> None:
    model = chain().eval()
    plan = make_plan(model, images())
    with pytest.raises(InputRejectedError, match="no batch to calibrate with"):
        standardize(model, plan, [])
    with pytest.raises(InputRejectedError, match="there is one value per channel"):
        standardize(model, plan, [images(1)])
    with pytest.raises(InputRejectedError, match="its input is NaN or infinite"):
        standardize(model, plan, [images(4) * float("inf")])


def shifted(norm: nn.Module) -> None:
    fixed_norm(norm).mean[1].add_(1.5 * BOUND * fixed_norm(norm).var[1].sqrt())


def scaled(norm: nn.Module) -> None:
    fixed_norm(norm).var[0].mul_(1 + 1.5 * BOUND)


def weighted(norm: nn.Module) -> None:
    fixed_norm(norm).weight[0].mul_(1 + BOUND)


def biased(norm: nn.Module) -> None:
    fixed_norm(norm).bias[0].sub_(1.5 * BOUND)


def spoilt(norm: nn.Module) -> None:
    fixed_norm(norm).var[0].fill_(float("nan"))


@pytest.mark.parametrize("wrong", [shifted, scaled, weighted, biased, spoilt])
def test_a_wrong_norm_is_rejected_and_named(wrong: Any) -> None:
    model, x = chain().eval(), images(16)
    result, plan = standardized(model, [x])
    names = [site.norm_name for site in plan.sites]
    assert check_unit_outputs(result, names, [x]).passed
    wrong(result.get_submodule(names[-1]))
    report = check_unit_outputs(result, names, [x])
    assert not report.passed
    assert report.layer == names[-1]
    assert "FAILED" in str(report)
    assert "not claimed" in str(report)
    assert report.to_json()["equality_claimed"] is False


def test_a_norm_that_nothing_passes_and_an_infinite_output_are_rejected() -> None:
    model, x = chain().eval(), images(16)
    result, plan = standardized(model, [x])
    names = [site.norm_name for site in plan.sites]
    result.add_module("idle", nn.Identity())
    result.idle.norm = nn.BatchNorm2d(2)
    idle = check_unit_outputs(result, [*names, "idle.norm"], [x])
    assert (idle.passed, idle.layer, idle.reason) == (False, "idle.norm", "nothing passes through the norm")
    with torch.no_grad():
        [layer for layer in result if isinstance(layer, nn.Linear)][-1].bias.fill_(float("inf"))
    report = check_unit_outputs(result, names, [x])
    assert (report.passed, report.reason) == (False, "an output of the model is NaN or infinite")
