"""BatchNorms: those that are inserted, and those that networks have of their own, whoever wrote them."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

__all__ = [
    "ChannelsLastBatchNorm1d",
    "ChannelsLastSyncBatchNorm",
    "foreign_norms",
    "is_batch_norm",
    "is_fixed_norm",
    "is_frozen_norm",
    "norm_for",
    "running_norms",
    "without_norm",
]


class ChannelsLastBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d over the last dimension: for dense outputs (N, *S, C), where nn.BatchNorm1d would normalise S."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Module's own name for it
        """Normalise (N, *S, C) per channel C."""
        return super().forward(input.flatten(0, -2)).view(input.shape)


class ChannelsLastSyncBatchNorm(nn.SyncBatchNorm):
    """SyncBatchNorm over the last dimension: what ChannelsLastBatchNorm1d is while GPUs share their statistics."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Module's own name for it
        """Normalise (N, *S, C) per channel C."""
        return super().forward(input.flatten(0, -2)).view(input.shape)


_NORMS: dict[str, type[nn.Module]] = {
    "BatchNorm1d": nn.BatchNorm1d,
    "BatchNorm2d": nn.BatchNorm2d,
    "BatchNorm3d": nn.BatchNorm3d,
    "ChannelsLastBatchNorm1d": ChannelsLastBatchNorm1d,
}

_STOCK = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(ChannelsLastBatchNorm1d, ChannelsLastSyncBatchNorm),
)
# By name, since their libraries are not imported here. These normalise, then call their children: dropout, activation.
_WITH_ACTIVATION = ("BatchNormAct2d", "SyncBatchNormAct", "FrozenBatchNormAct2d")
_FROZEN = ("FrozenBatchNorm2d", "FrozenBatchNormAct2d")
_LIBRARIES = ("timm.", "torchvision.")


def norm_for(name: str, channels: int, layer: nn.Module) -> nn.Module:
    """A new norm of that name on the layer's device, in float64 for float64 layers and in float32 for all others.

    Half-precision layers get float32 parameters and statistics, as torch's mixed-precision kernels expect.
    """
    weight = layer.weight
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    norm = _NORMS[name](channels, device=weight.device, dtype=dtype)
    norm.train(layer.training)
    return norm


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm of any make; FrozenBatchNorm2d and its like are no subclasses, only so called."""
    return any("BatchNorm" in cls.__name__ for cls in type(module).__mro__)


def is_fixed_norm(module: nn.Module) -> bool:
    """Whether a module's class is known to do nothing but normalise, and then at most to call its children.

    Stock BatchNorms and our channels-last one, timm's with an activation, torchvision's and timm's frozen ones.
    """
    return type(module) in _STOCK or _is_library(module, (*_WITH_ACTIVATION, *_FROZEN))


def running_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The norms that use batch statistics in training and track running ones, and do nothing else with them.

    Given: `class Named(nn.BatchNorm2d)` without a forward of its own. It is one of them.
    """
    return {name: module for name, module in _tracking(model).items() if is_fixed_norm(module) or _inherits(module)}


def foreign_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The norms with running statistics that are of torch's making and compute in a way of their own.

    Nobody knows how they heed their settings. What else is called a BatchNorm may as well be a frozen one.
    """
    known = running_norms(model)
    return {
        name: module
        for name, module in _tracking(model).items()
        if name not in known and isinstance(module, _STOCK) and type(module).train is nn.Module.train
    }


def _tracking(model: nn.Module) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in model.named_modules()
        if is_batch_norm(module) and not is_frozen_norm(module) and getattr(module, "running_var", None) is not None
    }


def _inherits(module: nn.Module) -> bool:
    """Whether a subclass of a stock norm leaves its forward and its modes as they are, also in the instance."""
    kind = type(module)
    return (
        isinstance(module, _STOCK)
        and any(kind.forward is stock.forward for stock in _STOCK)
        and kind.train is nn.Module.train
        and "forward" not in vars(module)
    )


def is_frozen_norm(module: nn.Module) -> bool:
    """Whether a module normalises by its statistics in training mode too, and with a formula of its own."""
    return _is_library(module, _FROZEN)


def without_norm(norm: nn.Module) -> nn.Module:
    """What stands in a norm's place when it is gone: nothing, or the children that it calls after normalising.

    Given: BatchNormAct2d(drop, act). Result: Sequential(drop, act), so that their keys stay.
    """
    children = OrderedDict(norm.named_children())
    rest: nn.Module = nn.Sequential(children) if children else nn.Identity()
    # Not train(), which would reach into the children.
    rest.training = norm.training
    return rest


def _is_library(module: nn.Module, names: tuple[str, ...]) -> bool:
    return type(module).__name__ in names and type(module).__module__.startswith(_LIBRARIES)
