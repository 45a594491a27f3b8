"""A norm behind a rearrangement: what it normalises is told by where its channels come from."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import fold, make_fold_plan, make_plan, retrofit, verify
from bnretrofit.capture import capture, op_of
from bnretrofit.errors import VerificationError
from bnretrofit.readers import readers
from tests.library.observing import equal_states, part, randomised, run

Arrange = Callable[[Any, Tensor], Any]


class Rearranged(nn.Module):
    """A layer, and a norm that reads its output in another arrangement."""

    def __init__(self, layer: nn.Module, norm: nn.Module, through: Arrange) -> None:
        super().__init__()
        self.layer, self.norm, self.through = layer, norm, through

    def forward(self, x: Tensor) -> Any:
        return self.through(self, self.layer(x))


def tokens(m: Any, x: Tensor) -> Any:
    """As timm's LinearNorm has it, for LeViT."""
    return m.norm(x.flatten(0, 1)).reshape_as(x).relu()


def viewed(m: Any, x: Tensor) -> Any:
    return m.norm(x.view(-1, x.shape[-1])).view_as(x).relu()


def pixels(m: Any, x: Tensor) -> Any:
    return m.norm(x.flatten(2)).unflatten(2, x.shape[2:]).relu()


def mixed(m: Any, x: Tensor) -> Any:
    # (N, C, H, W) as (N * H * W, C): rows of the picture stand where the norm expects channels.
    return m.norm(x.reshape(-1, x.shape[1])).reshape_as(x).relu()


ALONG = [
    (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), tokens, (3, 5, 4)),
    (nn.Linear(4, 6), nn.BatchNorm1d(6), viewed, (3, 5, 4)),
    (nn.Conv2d(4, 6, 3), nn.BatchNorm1d(6), pixels, (3, 4, 7, 7)),
]


@pytest.mark.parametrize(("layer", "norm", "through", "shape"), ALONG)
def test_a_norm_behind_a_rearrangement_folds_into_its_layer(
    layer: nn.Module, norm: nn.Module, through: Arrange, shape: tuple[int, ...]
) -> None:
    model, x = randomised(Rearranged(layer, norm, through)), torch.randn(shape)
    assert [(found.norm, found.layer) for found in make_fold_plan(model, x).folds] == [("norm", "layer")]
    folded = fold(model, x)
    assert isinstance(part(folded, "norm"), nn.Identity)
    torch.testing.assert_close(run(folded, x), run(model, x))
    assert verify(model, folded, [x]).passed
    broken = fold(model, x)
    with torch.no_grad():
        part(broken, "layer").weight[1] *= 1.01
    assert not verify(model, broken, [x]).passed


def test_a_norm_along_anything_else_stays() -> None:
    model, x = randomised(Rearranged(nn.Conv2d(4, 6, 3), nn.BatchNorm1d(6), mixed)), torch.randn(3, 4, 7, 7)
    plan = make_fold_plan(model, x)
    assert not plan.folds
    assert "it does not normalise the output of 'layer' along its channels" in plan.leaves[0].reason


def test_a_layer_with_such_a_norm_gets_no_second_one() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = Rearranged(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), tokens)
            self.dense, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.dense(self.project(x)).relu().mean(1))

    model, x = randomised(Attention()), torch.randn(8, 5, 4)
    plan = make_plan(model, x)
    assert [site.name for site in plan.sites] == ["dense"]
    assert {skip.name: skip.reason for skip in plan.skips}["project.layer"] == (
        "BatchNorm1d 'project.norm' already normalises its output"
    )
    result = retrofit(model, [x])
    assert torch.equal(run(result, x), run(model, x))
    assert equal_states(fold(result, x), model)


def test_who_adds_the_output_reads_it() -> None:
    def besides(m: Any, x: Tensor) -> Any:
        return m.norm(x.flatten(0, 1)).reshape_as(x) + x

    model, x = randomised(Rearranged(nn.Linear(4, 6), nn.BatchNorm1d(6), besides)), torch.randn(3, 5, 4)
    plan = make_fold_plan(model, x)
    assert "read elsewhere" in plan.leaves[0].reason
    graph = capture(model, x)
    (linear,) = [node for node in graph.nodes if op_of(node) == "aten.linear.default"]
    assert [op_of(node) for node in readers(linear)] == ["aten.flatten.using_ints", "aten.add.Tensor"]


COINCIDENCES: dict[str, tuple[nn.Module, nn.Module, Arrange, tuple[int, ...]]] = {
    "one pixel": (nn.Conv2d(3, 4, 3), nn.BatchNorm1d(4), lambda m, y: m.norm(y.reshape(-1, 4)), (2, 3, 3, 3)),
    "four pixels": (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), lambda m, y: m.norm(y.view(-1, 4, 2, 2)), (2, 3, 4, 4)),
    "one token": (nn.Linear(3, 4), nn.BatchNorm1d(4), lambda m, y: m.norm(y.view(y.shape[0], 4, -1)), (2, 1, 3)),
    "one sample": (nn.Conv2d(3, 4, 3), nn.BatchNorm1d(4), lambda m, y: m.norm(y.view(1, 4, -1)), (1, 3, 6, 6)),
    "another dtype": (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), lambda m, y: m.norm(y.view(torch.bfloat16)), (2, 3, 6, 6)),
}


@pytest.mark.parametrize("case", COINCIDENCES)
def test_what_is_along_channels_at_one_size_only_stays(case: str) -> None:
    layer, norm, through, shape = COINCIDENCES[case]
    model, x = randomised(Rearranged(layer, norm, through)), torch.randn(shape)
    plan = make_fold_plan(model, x)
    assert not plan.folds
    assert plan.leaves


class Pooled(nn.Module):
    """A norm, then a dense layer that reads its channels at the example's size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dense = nn.BatchNorm1d(4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Any:
        return self.dense(self.norm(x.relu()).transpose(0, 1).reshape(-1, 4))


def test_a_forward_fold_that_holds_for_one_sample_only_is_refused() -> None:
    model = randomised(Pooled())
    with pytest.raises(VerificationError, match="inputs of another size"):
        fold(model, torch.randn(1, 4))


def test_a_layer_with_a_norm_behind_one_of_its_calls_comes_back() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Any:
            return (self.norm(self.conv(x)).relu() + self.conv(x * 2)).mean((2, 3))

    model, x = randomised(Twice()), torch.randn(2, 3, 6, 6)
    assert equal_states(fold(retrofit(model, [x]), x), model)
