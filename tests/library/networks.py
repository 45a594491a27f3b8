"""Small networks, one for each way in which a model can call its layers."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def images(samples: int = 2, channels: int = 3, size: int = 8) -> Tensor:
    return torch.randn(samples, channels, size, size)


def chain() -> nn.Sequential:
    """A small VGG with what VGGs have: in-place ReLUs, pooling, dropout, dense layers, a head."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout(0.3),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 12),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Linear(12, 5),
    )


CHAIN_SITES = ("0", "4", "8")


class Residual(nn.Module):
    """Two convs beside a skip connection, with an in-place ReLU on the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.relu(x + self.conv2(self.relu(self.conv1(x))))
        return self.head(x.mean((2, 3)))


class Concatenated(nn.Module):
    """Two branches of other widths, joined by cat."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(3, 4, 1)
        self.wide = nn.Conv2d(3, 6, 3, padding=1)
        self.join = nn.Conv2d(10, 5, 1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Any:
        x = torch.cat([functional.relu(self.narrow(x)), functional.relu(self.wide(x))], 1)
        return self.head(functional.relu(self.join(x)).mean((2, 3)))


class CalledTwice(nn.Module):
    """One conv, called twice, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Any:
        x = functional.relu(self.conv(functional.relu(self.conv(x))))
        return self.head(x.mean((2, 3)))


class Tied(nn.Module):
    """Two dense layers that hold the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.second(self.first(x).relu()).relu())


class Functional(nn.Module):
    """A layer whose weight is used without calling it, and a bare parameter used as a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.bare = nn.Parameter(torch.randn(4, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        x = functional.linear(x, self.inner.weight).relu()
        return self.head(functional.linear(x, self.bare).relu())


class NeverCalled(nn.Module):
    """A dense layer that only training would use, and one that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.auxiliary = nn.Linear(4, 2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.body(x).relu()
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


class StandardisedConv(nn.Conv2d):
    """Weight standardisation: a scale in the weight is taken out again before it acts."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias, padding=1)


def reparametrised(way: str) -> nn.Sequential:
    """`chain` with its second conv's weight computed from other tensors: by the "old" or the "new" weight_norm."""
    model = chain()
    if way == "old":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            nn.utils.weight_norm(model[4])
    else:
        nn.utils.parametrizations.weight_norm(model[4])
    return model


class Tokens(nn.Module):
    """Dense layers on (N, L, C) or (N, H, W, C), averaged before the head."""

    def __init__(self, channels: int = 4, hidden: int = 6) -> None:
        super().__init__()
        self.first = nn.Linear(channels, hidden)
        self.second = nn.Linear(hidden, channels)
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.second(functional.gelu(self.first(x))).relu()
        return self.head(x.flatten(1, -2).mean(1))


class Keywords(nn.Module):
    """Takes two inputs, by position or by name, and returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.dense = nn.Linear(2, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, image: Tensor, extra: Tensor, scale: float = 1.0) -> Any:
        features = functional.relu(self.conv(image))
        x = features.mean((2, 3)) * scale + functional.relu(self.dense(extra))
        return {"logits": self.head(x), "features": features}


class TwoNorms(nn.Module):
    """One conv called twice, with another BatchNorm after each call: no weight serves both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first = nn.BatchNorm2d(3)
        self.second = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Any:
        return self.second(self.conv(self.first(self.conv(x)).relu()))


class ReadBesides(nn.Module):
    """A conv whose output is read by its BatchNorm and by something else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        return self.norm(x) + x


def with_own_norms() -> nn.Sequential:
    """Conv -> BatchNorm twice, pooled, and a head."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


CONVS: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module], int]] = {
    "Conv1d": (nn.Conv1d, nn.BatchNorm1d, 1),
    "Conv2d": (nn.Conv2d, nn.BatchNorm2d, 2),
    "Conv3d": (nn.Conv3d, nn.BatchNorm3d, 3),
    "ConvTranspose1d": (nn.ConvTranspose1d, nn.BatchNorm1d, 1),
    "ConvTranspose2d": (nn.ConvTranspose2d, nn.BatchNorm2d, 2),
    "ConvTranspose3d": (nn.ConvTranspose3d, nn.BatchNorm3d, 3),
}


def conv_then(kind: str, groups: int = 1, *, bias: bool = True, norm: bool = False) -> nn.Sequential:
    """A conv of that kind, 4 -> 6 channels, with or without a BatchNorm, then a 1x1 conv of the same dimension."""
    conv, batch_norm, dim = CONVS[kind]
    head = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dim - 1]
    middle = [batch_norm(6)] if norm else []
    return nn.Sequential(conv(4, 6, 3, padding=1, groups=groups, bias=bias), *middle, nn.ReLU(), head(6, 2, 1))


def input_of(kind: str, samples: int = 2) -> Tensor:
    """An input for `conv_then`."""
    return torch.randn(samples, 4, *[5] * CONVS[kind][2])
