"""What the benchmarks of folding fold: a VGG, and small networks of the kinds on which folding tools go wrong."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

__all__ = ["CASES", "Case", "draw_norms", "network_with_norms"]


def network_with_norms(name: str) -> nn.Module:
    """One of torchvision's networks that have norms, seeded and in eval mode."""
    from torchvision import models

    torch.manual_seed(0)
    model: nn.Module = models.get_model(name).eval()
    draw_norms(model)
    return model


def draw_norms(model: nn.Module) -> None:
    """Give every norm statistics, gamma and beta that do something."""
    for module in model.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        if module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
        if module.running_mean is not None and module.running_var is not None:
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.3, 2.0)


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of network.

    Attributes:
        name: What is special about it.
        build: Makes it, untrained.
        shape: Of a batch.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def network(self) -> nn.Module:
        """A new one in eval mode, with the same tensors each time."""
        torch.manual_seed(0)
        model = self.build()
        draw_norms(model)
        return model.eval()

    def inputs(self) -> Tensor:
        """A batch, the same each time."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(1))


class CalledTwice(nn.Module):
    """One conv, and another norm after each of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(4)
        self.norm2 = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.norm1(self.conv(x))
        second: Tensor = self.norm2(self.conv(first.relu()))
        return second


class StandardisedConv2d(nn.Conv2d):
    """It brings its weight to mean 0 and variance 1 before it uses it, as timm's StdConv2d does."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Module's own name for it
        var, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * (var + 1e-6).rsqrt()
        return F.conv2d(input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class FunctionalConv(nn.Module):
    """The norm's convolution has no module, so the stem seems to be what comes before the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.weight = nn.Parameter(torch.randn(6, 6, 3, 3) / 7)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(F.conv2d(self.stem(x).relu(), self.weight, padding=1))
        return normed


class PreActivation(nn.Module):
    """A residual block that normalises before its padded conv: the stem's output is read without the norm, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        stem: Tensor = self.stem(x)
        branch: Tensor = self.conv(self.norm(stem))
        return stem + branch


def _tokens() -> nn.Module:
    # BatchNorm1d takes (N, 5, 5) for (N, C, L) and normalises each token, not each feature.
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))


def _conv_not_affine() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6, affine=False))


def _dense_not_affine() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5, affine=False))


def _transposed(groups: int) -> nn.Module:
    conv = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1, groups=groups)
    return nn.Sequential(conv, nn.BatchNorm2d(8))


def _old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        # It is deprecated, and still in many published models.
        warnings.simplefilter("ignore", FutureWarning)
        conv = nn.utils.weight_norm(nn.Conv2d(3, 6, 3))
    return nn.Sequential(conv, nn.BatchNorm2d(6))


def _new_weight_norm() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 6, 3)), nn.BatchNorm2d(6))


def _hooked() -> nn.Module:
    conv = nn.Conv2d(3, 6, 3)
    conv.register_forward_hook(lambda _module, _inputs, output: output.clamp(min=0))
    return nn.Sequential(conv, nn.BatchNorm2d(6))


def _subclassed() -> nn.Module:
    return nn.Sequential(StandardisedConv2d(3, 6, 3), nn.BatchNorm2d(6))


def _tied() -> nn.Module:
    convs = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    convs[1].weight = convs[0].weight
    return nn.Sequential(convs[0], nn.BatchNorm2d(4), nn.ReLU(), convs[1], nn.BatchNorm2d(4))


CASES = (
    Case("conv called twice, two norms", CalledTwice, (2, 4, 8, 8)),
    Case("Linear, BatchNorm1d on (N, L, C), L = C", _tokens, (3, 5, 6)),
    Case("conv, affine=False", _conv_not_affine, (2, 3, 8, 8)),
    Case("Linear, affine=False", _dense_not_affine, (4, 6)),
    Case("ConvTranspose2d, grouped", lambda: _transposed(2), (2, 8, 5, 5)),
    Case("ConvTranspose2d, depthwise", lambda: _transposed(8), (2, 8, 5, 5)),
    Case("weight_norm, old", _old_weight_norm, (2, 3, 8, 8)),
    Case("weight_norm, new", _new_weight_norm, (2, 3, 8, 8)),
    Case("conv with a forward hook", _hooked, (2, 3, 8, 8)),
    Case("subclassed conv (standardised)", _subclassed, (2, 3, 8, 8)),
    Case("functional conv", FunctionalConv, (2, 3, 8, 8)),
    Case("tied weights", _tied, (2, 4, 8, 8)),
    Case("norm before a zero-padded conv", PreActivation, (2, 3, 8, 8)),
)
"""What folding tools meet in published networks and get wrong, or cannot do."""
