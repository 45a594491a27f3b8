"""What follows a layer, and which layers make the output."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit.capture import capture, op_of
from bnretrofit.layers import LAYER_OPS
from bnretrofit.topology import following_norm, output_layers
from tests.library.networks import Concatenated, Keywords, ReadBesides, Residual, chain, images


class Applied(nn.Module):
    """conv, then a function of its output."""

    def __init__(self, after: Callable[["Applied", Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.batch = nn.BatchNorm2d(4)
        self.layer = nn.LayerNorm(4)
        self.group = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 2)
        self.other = nn.Linear(4, 2)
        self.after = after

    def forward(self, x: Tensor) -> Any:
        return self.after(self, self.conv(x))


def norm_after_conv(after: Callable[[Applied, Tensor], Any]) -> str | None:
    graph = capture(Applied(after), images())
    conv = next(node for node in graph.nodes if graph.owners[node] == "conv")
    return following_norm(graph, conv)


@pytest.mark.parametrize(
    ("after", "norm"),
    [
        (lambda m, y: m.batch(y), "BatchNorm2d 'batch'"),
        (lambda m, y: m.group(y).relu(), "GroupNorm 'group'"),
        (lambda m, y: m.layer(y.permute(0, 2, 3, 1)), "LayerNorm 'layer'"),
        (lambda m, y: m.layer(y.flatten(2).transpose(1, 2)).mean(1), "LayerNorm 'layer'"),
        (lambda m, y: m.batch(y.relu()), None),
        (lambda m, y: m.batch(y) + y, None),
        (lambda m, y: y, None),
    ],
)
def test_a_norm_is_found_behind_rearrangements_only(after: Callable[[Applied, Tensor], Any], norm: str | None) -> None:
    assert norm_after_conv(after) == norm


def test_a_norm_is_known_by_its_class_too() -> None:
    class RMSNorm2d(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x / x.square().mean(1, keepdim=True).sqrt()

    model = nn.Sequential(nn.Conv2d(3, 4, 3), RMSNorm2d())
    graph = capture(model, images())
    assert following_norm(graph, graph.nodes[0]) is None, "two calls of the norm read the conv"
    scale_norm = type("ScaleNorm", (nn.Module,), {"forward": lambda _, x: x * 2})
    model = nn.Sequential(nn.Conv2d(3, 4, 3), scale_norm())
    graph = capture(model, images())
    assert following_norm(graph, graph.nodes[0]) == "ScaleNorm '1'"


def heads(model: nn.Module, example: Any) -> set[str]:
    graph = capture(model, example)
    found = output_layers(graph)
    assert all(op_of(node) in LAYER_OPS for node in found)
    return {graph.owners[node] for node in found}


class WithoutNorm(nn.Sequential):
    """A network that is called as norms are, and does something itself."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self[0](x)
        return found.relu()


def test_a_network_that_is_called_as_norms_are_is_none() -> None:
    graph = capture(WithoutNorm(nn.Conv2d(3, 4, 3)), images())
    conv = next(node for node in graph.nodes if graph.owners[node] == "0")
    assert following_norm(graph, conv) is None


@pytest.mark.parametrize(
    ("after", "wanted"),
    [
        (lambda m, y: m.head(y.mean((2, 3))), {"head"}),
        (lambda m, y: m.head(y.mean((2, 3))).softmax(1), {"head"}),
        (lambda m, y: m.head(y.mean((2, 3))).relu().square(), {"head"}),
        (lambda m, y: (m.head(y.mean((2, 3))) + m.other(y.mean((2, 3)))) / 2, {"head", "other"}),
        (lambda m, y: (m.head(y.mean((2, 3))), m.other(y.mean((2, 3)))), {"head", "other"}),
        (lambda m, y: y, {"conv"}),
        (lambda m, y: y.sigmoid() * 255, {"conv"}),
        (lambda m, y: nn.functional.interpolate(y, scale_factor=2), {"conv"}),
        (lambda m, y: y.relu(), set()),
        (lambda m, y: m.batch(y), set()),
        (lambda m, y: y.mean((2, 3)).relu(), {"conv"}),
    ],
)
def test_the_layers_that_make_the_output_are_found(after: Callable[[Applied, Tensor], Any], wanted: set[str]) -> None:
    assert heads(Applied(after), images()) == wanted


def test_a_residual_that_adds_the_input_is_made_by_its_last_layer() -> None:
    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))

        def forward(self, x: Tensor) -> Any:
            return x - self.body(x)

    assert heads(Denoiser(), images()) == {"body.2"}


def test_a_trunk_s_features_have_no_head() -> None:
    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

        def forward(self, x: Tensor) -> Any:
            for conv in self.convs:
                x = x + conv(x)
            return x

    assert heads(Trunk(), images()) == set()


def test_the_heads_of_small_networks_are_their_heads() -> None:
    assert heads(chain(), images()) == {"11"}
    assert heads(Residual(), images()) == {"head"}
    assert heads(Concatenated(), images()) == {"head"}
    assert heads(ReadBesides(), images()) == set()
    assert heads(Keywords(), {"image": images(), "extra": torch.zeros(2, 2)}) == {"head"}
