"""How norms run in fine-tuning: with the statistics of each batch, over all GPUs, or with their running statistics."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from bnretrofit.norms import (
    ChannelsLastBatchNorm1d,
    ChannelsLastSyncBatchNorm,
    foreign_norms,
    is_batch_norm,
    is_fixed_norm,
    running_norms,
)
from bnretrofit.training.config import TrainingConfig

__all__ = ["momentum_set", "momentum_spread", "resolved", "smallest_batch", "synchronised", "unsynchronised"]

SMALL_BATCH = 8
"""Below so many images per normalisation, "auto" freezes the statistics: with 4 images frozen ones came to higher
accuracies, with 8 and more there was nothing between the two (docs/finetuning_figures.md)."""


def resolved(config: TrainingConfig, images: int) -> str:
    """Tell what "auto" is; "batch" and "frozen" are themselves.

    Args:
        config: How it is trained.
        images: That share their statistics: of a batch, or of a batch on all GPUs where these are synchronised.
    """
    if config.bn_stats != "auto":
        return config.bn_stats
    # Statistics that move are new to a trunk that is not trained.
    return "frozen" if images < SMALL_BATCH or config.train == "head" else "batch"


def smallest_batch(model: nn.Module, config: TrainingConfig, images: int) -> int:
    """How many images a batch has to hold at least: statistics of one value do not exist.

    Args:
        model: With norms or without.
        config: How it is trained.
        images: As `resolved` takes them.
    """
    norms = running_norms(model) or foreign_norms(model)
    return 2 if norms and resolved(config, images) == "batch" else 1


@contextmanager
def momentum_set(norms: Mapping[str, nn.Module], momentum: float | None) -> Iterator[None]:
    """While it lasts, running statistics move with this momentum; None leaves each norm's own."""
    with _momenta(norms, lambda own: own if momentum is None else momentum):
        yield


@contextmanager
def momentum_spread(norms: Mapping[str, nn.Module], batches: int) -> Iterator[None]:
    """While it lasts, so many batches move running statistics as far as one would: 1 - (1 - m)^(1 / batches) each.

    Args:
        norms: With the momentum of a step; those that have none count all batches alike, and stay so.
        batches: Of a step.
    """
    with _momenta(norms, lambda own: own if own is None else 1 - (1 - own) ** (1 / batches)):
        yield


@contextmanager
def _momenta(norms: Mapping[str, Any], changed: Callable[[float | None], float | None]) -> Iterator[None]:
    before = {name: norm.momentum for name, norm in norms.items()}
    try:
        for name, norm in norms.items():
            norm.momentum = changed(before[name])
        yield
    finally:
        for name, norm in norms.items():
            norm.momentum = before[name]


def unsynchronised(model: nn.Module) -> dict[str, nn.Module]:
    """Norms of nobody knows whose making, which keep to the batch of their own GPU."""
    return {
        name: module
        for name, module in model.named_modules()
        if is_batch_norm(module) and not is_fixed_norm(module) and not isinstance(module, nn.SyncBatchNorm)
    }


@contextmanager
def synchronised(norms: dict[str, nn.Module]) -> Iterator[None]:
    """While it lasts, batch statistics are those of the batches of all GPUs.

    The modules stay the same objects, of another class: no key and no reference to them changes.

    Args:
        norms: As `running_norms` gives them: there is a synchronised class of each.
    """
    single = {name: norm for name, norm in norms.items() if not isinstance(norm, nn.SyncBatchNorm)}
    before = {name: type(norm) for name, norm in single.items()}
    known = {name: found for name, kind in before.items() if (found := _synchronised_class(kind)) is not None}
    try:
        for name, kind in known.items():
            _become(single[name], kind)
        yield
    finally:
        for name in known:
            single[name].__class__ = before[name]
            single[name].__dict__.pop("process_group", None)


def _synchronised_class(kind: type[nn.Module]) -> type[nn.Module] | None:
    # By the forward, which a subclass may inherit.
    if kind.forward is ChannelsLastBatchNorm1d.forward:
        return ChannelsLastSyncBatchNorm
    if issubclass(kind, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) and kind.forward is nn.BatchNorm2d.forward:
        return nn.SyncBatchNorm
    if kind.__name__ == "BatchNormAct2d":
        from timm.layers.norm_act import SyncBatchNormAct

        # It takes dropout and activation from the attributes of the one that it is made of.
        return SyncBatchNormAct
    return None


def _become(norm: Any, kind: type[nn.Module]) -> None:
    norm.__class__ = kind
    norm.process_group = None
