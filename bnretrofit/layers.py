"""The one table: which layers take a BatchNorm, along which channels, and which one."""

from dataclasses import dataclass

from torch import nn

__all__ = [
    "LAYER_OPS",
    "LayerKind",
    "kind_of",
    "norm_name_for",
]


@dataclass(frozen=True, slots=True)
class LayerKind:
    """What the pass needs to know of a layer class.

    Attributes:
        name: The stock class it is an instance of: "Conv2d", "Linear" …
        family: "conv" or "dense".
        ops: Names of the aten operators that compute it.
        spatial: Number of spatial dimensions; None for a dense layer.
        transposed: Whether its weight is laid out (C_in, C_out / groups, *kernel).
    """

    name: str
    module: type[nn.Module]
    family: str
    ops: tuple[str, ...]
    spatial: int | None
    transposed: bool = False

    def channels(self, layer: nn.Module) -> int:
        """Number of output channels of a layer of this kind."""
        return int(layer.out_features if self.family == "dense" else layer.out_channels)  # type: ignore[arg-type]

    def channel_dim(self, rank: int) -> int | None:
        """Where the channels stand in an output of that rank: 1 or -1; None if the output has no batch dimension."""
        if self.spatial is None:
            return {0: None, 1: None, 2: 1}.get(rank, -1)
        return 1 if rank == self.spatial + 2 else None


def _convolution(dim: int, cls: type[nn.Module]) -> LayerKind:
    return LayerKind(f"Conv{dim}d", cls, "conv", (f"aten.conv{dim}d.default", f"aten.conv{dim}d.padding"), dim)


def _transposed(dim: int, cls: type[nn.Module], overload: str) -> LayerKind:
    return LayerKind(
        f"ConvTranspose{dim}d", cls, "conv", (f"aten.conv_transpose{dim}d.{overload}",), dim, transposed=True
    )


KINDS = (
    _convolution(1, nn.Conv1d),
    _convolution(2, nn.Conv2d),
    _convolution(3, nn.Conv3d),
    _transposed(1, nn.ConvTranspose1d, "default"),
    _transposed(2, nn.ConvTranspose2d, "input"),
    _transposed(3, nn.ConvTranspose3d, "input"),
    LayerKind("Linear", nn.Linear, "dense", ("aten.linear.default",), None),
)

LAYER_OPS = frozenset(op for kind in KINDS for op in kind.ops)


def kind_of(module: nn.Module) -> LayerKind | None:
    """The row of the table for a module; None if it is not a convolution or dense layer."""
    return next((kind for kind in KINDS if isinstance(module, kind.module)), None)


def norm_name_for(kind: LayerKind, channel_dim: int) -> str:
    """Name of the norm that goes after a layer whose output has its channels there."""
    if channel_dim == -1:
        return "ChannelsLastBatchNorm1d"
    return f"BatchNorm{kind.spatial or 1}d"
