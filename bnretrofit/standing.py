"""Modules that stand in another's place: a layer with its norm, and a convolution that pads with more than zeros."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ChannelPad", "Normed", "Padded"]


class _Standing(nn.Sequential):
    """Attribute reads that a Sequential cannot answer go to the layer inside.

    So code that asks for `weight`, `in_features` or `stride` finds them.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            modules = self.__dict__.get("_modules", {})
            if name.startswith("__") or "layer" not in modules:
                raise
            return getattr(modules["layer"], name)


class Normed(_Standing):
    """A layer, or its activation, and the BatchNorm after it, standing in its place.

    Args:
        layer: The convolution, dense layer or activation.
        norm: The norm of its output.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__(OrderedDict(layer=layer, norm=norm))
        self.training = layer.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's output, normalised."""
        return self.norm(self.layer(*args, **kwargs))


class ChannelPad(nn.Module):
    """Pads with a value per channel.

    Args:
        value: (C,).
        padding: Of each spatial dimension, on both sides.
    """

    value: Tensor

    def __init__(self, value: Tensor, padding: tuple[int, ...]) -> None:
        super().__init__()
        self.padding = padding
        self.register_buffer("value", value)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, *S) -> (N, C, *S'), with the inner elements' bits as they are."""
        sides = [side for size in reversed(self.padding) for side in (size, size)]
        border = functional.pad(x.new_zeros(1, 1, *x.shape[2:]), sides, value=1.0)
        return functional.pad(x, sides) + border * self.value.view(1, -1, *[1] * len(self.padding))


class Padded(_Standing):
    """A convolution that pads with a value per channel, standing in the place of one that pads with zeros.

    Args:
        layer: The convolution, which is edited: it pads no more.
        value: (C_in,), in the dtype of its weight.
    """

    def __init__(self, layer: nn.Module, value: Tensor) -> None:
        padding: Any = layer.padding
        super().__init__(OrderedDict(pad=ChannelPad(value, tuple(padding)), layer=layer))
        layer.padding = (0,) * len(padding)  # type: ignore[assignment]
        self.train(layer.training)
