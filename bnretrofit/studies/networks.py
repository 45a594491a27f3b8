"""VGGs of any depth, small enough to be trained many times over on a processor."""

from dataclasses import dataclass

import torch
from torch import nn

from bnretrofit.errors import UsageError
from bnretrofit.training_data.seeding import generator

__all__ = ["ACTIVATIONS", "CONVOLUTIONS", "USUAL", "Shape", "vgg", "weighted"]

WIDTHS = (16, 32, 64, 64, 64)
"""Channels of the five stages of 3 x 3 convolutions; a pooling ends each. VGG has 64, 128, 256, 512 and 512."""

DENSE = 64

CONVOLUTIONS = {
    # Simonyan and Zisserman's A, D and E (https://arxiv.org/abs/1409.1556), and two that go on as they do.
    11: (1, 1, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
    32: (2, 3, 8, 8, 8),
    64: (5, 5, 17, 17, 17),
}
"""Convolutions of each stage, by the number of layers with the three dense ones."""

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a VGG.

    Attributes:
        depth: Layers with weights, one of `CONVOLUTIONS`.
        activation: One of `ACTIVATIONS`.
        dropout: Rate of the two dropouts between dense layers.
        gain: What all initial weights are multiplied with.
    """

    depth: int = 11
    activation: str = "relu"
    dropout: float = 0.0
    gain: float = 1.0


USUAL = Shape()


def vgg(shape: Shape, seed: int, *, classes: int = 10) -> nn.Sequential:
    """A VGG without norms, from images (N, 3, 32, 32) to logits (N, classes).

    Weights are He's normal ones (https://arxiv.org/abs/1502.01852) with the gain of the activation, biases are zero.

    Args:
        shape: Of the network.
        seed: Of its weights: the same for the same depth, whatever else is asked for.
        classes: How many logits.

    Raises:
        UsageError: There is no such depth or activation.
    """
    for name, value, known in (("depth", shape.depth, CONVOLUTIONS), ("activation", shape.activation, ACTIVATIONS)):
        if value not in known:
            raise UsageError(f"there is no {name} {value}", remedy=f"choose from {', '.join(map(str, known))}")
    network = nn.Sequential(nn.Sequential(*_features(shape)), nn.Flatten(), nn.Sequential(*_classifier(shape, classes)))
    _initialise(network, shape, seed)
    return network


def weighted(network: nn.Module) -> list[nn.Module]:
    """Its convolutions and dense layers, first to last."""
    return [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def _features(shape: Shape) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for width, count in zip(WIDTHS, CONVOLUTIONS[shape.depth], strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), ACTIVATIONS[shape.activation]()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return layers


def _classifier(shape: Shape, classes: int) -> list[nn.Module]:
    activation, rate = ACTIVATIONS[shape.activation], shape.dropout
    hidden = [nn.Linear(WIDTHS[-1], DENSE), activation(), nn.Dropout(rate)]
    return [*hidden, nn.Linear(DENSE, DENSE), activation(), nn.Dropout(rate), nn.Linear(DENSE, classes)]


@torch.no_grad()
def _initialise(network: nn.Module, shape: Shape, seed: int) -> None:
    random = generator("weights", seed)
    for layer in weighted(network):
        nn.init.kaiming_normal_(layer.weight, nonlinearity=shape.activation, generator=random)  # type: ignore[arg-type]
        layer.weight.mul_(shape.gain)  # type: ignore[operator]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
