"""In-place operations: a norm makes a new tensor, and dropping it must not join what it keeps apart."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import retrofit
from bnretrofit.capture import capture
from bnretrofit.proof import compare_graphs, prove
from tests.library.networks import images
from tests.library.observing import part, run


class Aliased(nn.Module):
    """conv -> identity norm, then a function of conv output y, norm output n and input x, some of it in place."""

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        plain = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
        site = part(retrofit(plain, [images(8, 4)]), "0")
        self.conv, self.norm, self.says = site.layer, site.norm, forward

    def forward(self, x: Tensor) -> Any:
        return self.says(self, x)


def norm_then_in_place(m: Any, x: Tensor) -> Any:
    y = m.conv(x)
    n = m.norm(y)
    return n.relu_() + y


def in_place_without_norm(m: Any, x: Tensor) -> Any:
    y = m.conv(x)
    return y.relu_() + y


def norm_of_input_then_in_place(m: Any, x: Tensor) -> Any:
    x = x * 1
    n = m.norm(x)
    return m.conv(n.relu_()) + x


def input_in_place_without_norm(m: Any, x: Tensor) -> Any:
    x = x * 1
    return m.conv(x.relu_()) + x


def in_place_before_the_norm(m: Any, x: Tensor) -> Any:
    y = m.conv(x)
    y.relu_()
    return m.norm(y)


def in_place_after_the_norm(m: Any, x: Tensor) -> Any:
    y = m.conv(x)
    n = m.norm(y)
    y.relu_()
    return n


def view_kept_aside(m: Any, x: Tensor) -> Any:
    y = m.conv(x)
    v = y.flatten(1)
    return m.norm(y).relu_().flatten(1) + v


def view_kept_aside_without_norm(m: Any, x: Tensor) -> Any:
    y = m.conv(x)
    v = y.flatten(1)
    return y.relu_().flatten(1) + v


ALIASED = [
    (norm_then_in_place, in_place_without_norm),
    (norm_of_input_then_in_place, input_in_place_without_norm),
    (in_place_before_the_norm, in_place_after_the_norm),
    (view_kept_aside, view_kept_aside_without_norm),
]


@pytest.mark.parametrize(("with_norm", "other"), ALIASED)
def test_a_norm_that_keeps_two_tensors_apart_is_not_dropped(with_norm: Any, other: Any) -> None:
    a, b, x = Aliased(with_norm), Aliased(other), images(3, 4)
    # The norm is the exact identity, and yet without it the in-place ReLU reaches what else reads its input.
    assert float((run(a, x) - run(b, x)).abs().max()) > 0.01
    for compare in (prove, compare_graphs):
        assert not compare(capture(a, x), capture(b, x)).same_tensors
        assert not compare(capture(b, x), capture(a, x)).same_tensors


def test_an_in_place_relu_on_a_residual_is_proved_where_only_the_norm_reads_its_input() -> None:
    a = Aliased(lambda m, x: m.norm(m.conv(x)).relu_() + x)
    b = Aliased(lambda m, x: m.conv(x).relu_() + x)
    x = images(3, 4)
    assert torch.equal(run(a, x), run(b, x))
    assert prove(capture(a, x), capture(b, x)).same_tensors
