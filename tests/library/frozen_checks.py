"""Frozen statistics against norms in eval mode: outputs and gradients, whichever of weight and output is scaled."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from bnretrofit.copies import independent_copy
from bnretrofit.training import absorbed_forward
from bnretrofit.training.frozen_statistics import FrozenStatistics, frozen_statistics
from tests.library.observing import observed, randomised, same


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output of a model as it is, and the gradients of all its parameters and of its input."""
    x = x.detach().clone().requires_grad_()
    model.zero_grad()
    output = model(x)
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view(output.shape)
    (output * weights).sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    given = {name: grad.clone() for name, grad in found.items() if grad is not None}
    return {"": output.detach(), "x": x.grad.clone() if x.grad is not None else x, **given}


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def in_eval_mode(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    return gradients(independent_copy(model).eval(), x)


WAYS = {"whichever is smaller": None, "the weight": math.inf, "the output": 0.0}


@contextmanager
def scaling(way: str) -> Iterator[None]:
    """Whichever has fewer elements, scale that one."""
    with pytest.MonkeyPatch.context() as patch:
        if WAYS[way] is not None:
            patch.setattr(absorbed_forward, "_output_size", lambda *_: WAYS[way])
        yield


def assert_like_eval_mode(model: nn.Module, x: Tensor) -> FrozenStatistics:
    """Outputs and gradients in both modes under frozen statistics against those of the untouched model in eval mode.

    Returns:
        How each norm ran.
    """
    model, x = without_dropout(randomised(model)).double().train(), x.double()
    wanted, before = in_eval_mode(model, x), observed(model)
    with frozen_statistics(model, x) as found:
        for way in WAYS:
            with scaling(way):
                assert_close(gradients(model.train(), x), wanted, way)
                assert_close(gradients(model.eval(), x), wanted, way)
    assert same(before, observed(model.train()))
    assert not any("forward" in vars(module) for module in model.modules())
    return found


def assert_close(got: dict[str, Tensor], wanted: dict[str, Tensor], way: str) -> None:
    assert list(got) == list(wanted)
    for name, tensor in wanted.items():
        atol = 1e-12 * (1 + float(tensor.abs().max()))
        torch.testing.assert_close(got[name], tensor, rtol=1e-10, atol=atol, msg=f"{name}, scaling {way}")
