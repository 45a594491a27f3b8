"""A strategy that draws networks: chains, branches and shared layers of every kind, in shapes nobody thought of."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from bnretrofit.norms import ChannelsLastBatchNorm1d

CONVS: dict[str, tuple[Any, Any, Any]] = {
    "1d": (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d),
    "2d": (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d),
    "3d": (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d),
}
ACTIVATIONS = {"in place": nn.ReLU(inplace=True), "relu": nn.ReLU(), "gelu": nn.GELU(), "none": nn.Identity()}

SIZES = {"1d": (4, 9), "2d": (4, 8, 9), "3d": (4, 7, 8, 7), "flat": (4,), "tokens": (5, 4), "maps": (2, 3, 4)}
"""Of one input, by kind of network."""


@dataclass(frozen=True)
class Block:
    """A step of a network; the layers of dense networks have no groups, kernels or transposed kin."""

    form: str
    channels: int
    groups: int
    kernel: int
    bias: bool
    transposed: bool
    padding: str
    norm: str
    activation: str
    pool: str


@dataclass(frozen=True)
class Network:
    """A network and its input, as few numbers: what hypothesis prints when a law does not hold."""

    kind: str
    blocks: tuple[Block, ...]
    seed: int

    def build(self) -> nn.Module:
        """The network, in eval mode, always the same."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            layers: list[nn.Module] = []
            channels = 4
            for block in self.blocks:
                layers.append(Step(self.kind, channels, block))
                channels = layers[-1].channels  # type: ignore[assignment]
            return nn.Sequential(*layers, Head(self.kind, channels)).eval()

    def draw(self, samples: int, seed: int = 0) -> Tensor:
        """An input."""
        generator = torch.Generator().manual_seed(self.seed + 1000 * seed + samples)
        return torch.randn(samples, *SIZES[self.kind], generator=generator)

    def fits(self) -> bool:
        """Whether its inputs are large enough for what its layers and poolings take away."""
        size = min(SIZES[self.kind][1:], default=1)
        for block in self.blocks if self.kind in CONVS else ():
            if block.padding == "reflect" and size < block.kernel:
                return False
            if block.padding == "none" and block.form in ("chain", "branches"):
                size += (block.kernel - 1) * (1 if block.transposed else -1)
            if block.form == "chain" and block.pool != "none":
                size -= 1
            if size < 1:
                return False
        return True


class Step(nn.Module):
    """One block: a layer alone, beside a skip connection, called twice, or two layers side by side.

    Its norm, if it has one, stands before the layer, between the layer and the activation, or after the activation.
    """

    def __init__(self, kind: str, channels: int, block: Block) -> None:
        super().__init__()
        self.form, self.kind = block.form, kind
        keeps = block.form in ("residual", "twice")
        wide = channels if keeps else block.channels * block.groups
        self.layer = _layer(kind, channels, wide, block)
        self.beside = _layer(kind, channels, wide, block) if block.form == "branches" else nn.Identity()
        norms = {"before": channels, "between": wide, "after": wide}
        place = "between" if keeps and block.norm == "before" else block.norm
        self.norms = nn.ModuleDict(
            {name: _norm(kind, size) if name == place else nn.Identity() for name, size in norms.items()}
        )
        self.after = nn.Sequential(
            copy.deepcopy(ACTIVATIONS[block.activation]), self.norms["after"], nn.Dropout(0.5), _pool(kind, block)
        )
        self.channels = 2 * wide if block.form == "branches" else wide

    def forward(self, x: Tensor) -> Any:
        y = self.norms["between"](self.layer(self.norms["before"](x)))
        if self.form == "residual":
            y = y + x
        elif self.form == "twice":
            y = self.norms["between"](self.layer(self.after(y)))
        y = self.after(y)
        if self.form == "branches":
            y = torch.cat([y, self.beside(x).relu()], 1 if self.kind in CONVS or self.kind == "flat" else -1)
        return y


class Head(nn.Module):
    """Averages all positions, then logits."""

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self.first = kind in CONVS
        self.dense = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Any:
        if x.dim() > 2:
            x = x.flatten(2).mean(2) if self.first else x.flatten(1, -2).mean(1)
        return self.dense(x)


def _layer(kind: str, channels: int, wide: int, block: Block) -> nn.Module:
    if kind not in CONVS:
        return nn.Linear(channels, wide, bias=block.bias)
    conv, transposed, _ = CONVS[kind]
    groups = block.groups if channels % block.groups == 0 and wide % block.groups == 0 else 1
    options: dict[str, Any] = {"groups": groups, "bias": block.bias, "padding": block.kernel // 2}
    if block.padding == "none" and block.form in ("chain", "branches"):
        options["padding"] = 0
    elif block.padding == "reflect" and not block.transposed:
        options["padding_mode"] = "reflect"
    layer: nn.Module = (transposed if block.transposed else conv)(channels, wide, block.kernel, **options)
    return layer


def _pool(kind: str, block: Block) -> nn.Module:
    if kind not in CONVS or block.form != "chain" or block.pool == "none":
        return nn.Identity()
    made: nn.Module = getattr(nn, f"{block.pool}Pool{kind}")(2, 1)
    return made


def _norm(kind: str, channels: int) -> nn.Module:
    made = CONVS[kind][2] if kind in CONVS else nn.BatchNorm1d if kind == "flat" else ChannelsLastBatchNorm1d
    norm: Any = made(channels)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.3, 3.0)
    nn.init.uniform_(norm.weight, -2.0, 2.0)
    nn.init.normal_(norm.bias)
    return norm  # type: ignore[no-any-return]


def networks(*, norms: bool) -> st.SearchStrategy[Network]:
    """Networks, with or without BatchNorms of their own."""
    block = st.builds(
        Block,
        form=st.sampled_from(["chain", "residual", "twice", "branches"]),
        channels=st.integers(1, 5),
        groups=st.sampled_from([1, 2]),
        kernel=st.sampled_from([1, 3]),
        bias=st.booleans(),
        transposed=st.booleans(),
        padding=st.sampled_from(["zeros", "none", "reflect"]),
        norm=st.sampled_from(["none", "before", "between", "after"] if norms else ["none"]),
        activation=st.sampled_from(sorted(ACTIVATIONS)),
        pool=st.sampled_from(["none", "Avg", "Max"]),
    )
    kinds = st.sampled_from(["1d", "2d", "3d", "flat", "tokens", "maps"])
    drawn = st.builds(Network, kinds, st.lists(block, min_size=1, max_size=3).map(tuple), st.integers(0, 2**16))
    return drawn.filter(Network.fits)
