"""Views that no schema tells of, and writes that are not a first argument: norms before them stay."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import fold, make_fold_plan, verify
from tests.library.observing import randomised, run

Forward = Callable[[Any, Tensor], Any]


class Between(nn.Module):
    """A conv, a norm and a conv, called as a function says; what is changed in place is changed rarely."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.conv, self.norm, self.last, self.calls = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), forward

    def forward(self, x: Tensor) -> Any:
        return self.calls(self, self.conv(x).relu())


def einsum(m: Any, y: Tensor) -> Any:
    normed = m.norm(torch.einsum("abcd->abcd", y))
    y.clamp_(max=100.0)
    return m.last(normed)


def broadcast(m: Any, y: Tensor) -> Any:
    normed = m.norm(torch.broadcast_tensors(y, y[:1])[0])
    y.clamp_(max=100.0)
    return m.last(normed)


def a_list(m: Any, y: Tensor) -> Any:
    normed = m.norm(y)
    torch._foreach_clamp_max_([y], 100.0)
    return m.last(normed)


def a_keyword(m: Any, y: Tensor) -> Any:
    normed = m.norm(y)
    torch.clamp(y, max=100.0, out=y)
    return m.last(normed)


def a_region(m: Any, y: Tensor) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = y.view(y.shape).view(-1)
    normed = m.norm(y)
    seen.clamp_(max=100.0)
    return m.last(normed)


@pytest.mark.parametrize("forward", [einsum, broadcast, a_list, a_keyword, a_region])
def test_a_norm_whose_input_is_changed_unseen_is_not_folded_wrongly(forward: Forward) -> None:
    model, x = randomised(Between(forward)), torch.randn(2, 3, 6, 6)
    plan = make_fold_plan(model, x)
    folded = fold(model, x)
    for inputs in (x, torch.randn(2, 3, 6, 6) * 1000):
        wanted = run(model, inputs.clone())
        assert torch.allclose(run(folded, inputs.clone()), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    assert not plan.folds


@pytest.mark.parametrize("draw", ["cauchy_", "geometric_", "log_normal_", "exponential_"])
def test_whatever_draws_random_numbers_is_never_proved(draw: str) -> None:
    class Rare(nn.Module):
        def forward(self, x: Tensor) -> Any:
            arguments = (0.5,) if draw == "geometric_" else ()
            # Beyond all inputs that are tried.
            return torch.where(x.abs() > 1e7, x + getattr(torch.zeros_like(x), draw)(*arguments), x)

    report = verify(Rare(), Rare(), [torch.randn(4, 3)])
    assert report.bit_identical
    assert not report.proved
