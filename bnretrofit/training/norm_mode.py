"""How norms run in fine-tuning: with the statistics of each batch, over all GPUs, or with their running statistics."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.batches import as_call
from bnretrofit.norms import ChannelsLastBatchNorm1d, is_fixed_norm, is_frozen_norm

__all__ = ["Drift", "drift_of", "momentum_set", "resolved", "running_norms", "synchronised"]

SMALL_BATCH = 16
"""Below so many images per normalisation, "auto" freezes the statistics: with batch statistics a dense layer's outputs
differ from those with running ones by 0.4 of their size at 8 images, and by 0.2 at 32."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How far outputs with batch statistics are from those with running ones.

    Attributes:
        relative: Root mean square of the difference over that of the outputs.
        samples: Of the batch.
    """

    relative: float
    samples: int

    def __str__(self) -> str:
        return f"{self.relative:.3g} of the outputs' size at batch {self.samples}"


def running_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The norms that use batch statistics in training and track running ones."""
    return {
        name: module
        for name, module in model.named_modules()
        if is_fixed_norm(module) and not is_frozen_norm(module) and getattr(module, "running_var", None) is not None
    }


def resolved(bn_stats: str, images: int) -> str:
    """Tell what "auto" is; "batch" and "frozen" are themselves.

    Args:
        bn_stats: See `TrainingConfig.bn_stats`.
        images: That share their statistics: of a batch, or of a batch on all GPUs where these are synchronised.
    """
    return ("frozen" if images < SMALL_BATCH else "batch") if bn_stats == "auto" else bn_stats


@torch.no_grad()
def drift_of(model: nn.Module, images: Tensor) -> Drift | None:
    """Run one batch both ways, and leave the model as it was; None for a batch of one or a model without such norms."""
    norms = running_norms(model)
    if not norms or len(images) < 2:
        return None
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    args, kwargs = as_call(images)
    try:
        # Dropout stays off: the drift is the norms'.
        model.eval()
        plain = _logits(model(*args, **kwargs))
        for norm in norms.values():
            norm.training = True
        drifted = _logits(model(*args, **kwargs))
    finally:
        for module, training in modes.items():
            module.training = training
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    size = plain.square().mean().sqrt().clamp_min(torch.finfo(plain.dtype).tiny)
    return Drift(float((drifted - plain).square().mean().sqrt() / size), len(images))


def _logits(output: Any) -> Tensor:
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    return (found if isinstance(found, Tensor) else next(iter(output))).double()


@contextmanager
def momentum_set(norms: dict[str, nn.Module], momentum: float | None) -> Iterator[None]:
    """While it lasts, running statistics move with this momentum; None leaves each norm's own."""
    before = {name: norm.momentum for name, norm in norms.items()}
    try:
        for norm in norms.values():
            norm.momentum = norm.momentum if momentum is None else momentum  # type: ignore[assignment]
        yield
    finally:
        for name, norm in norms.items():
            norm.momentum = before[name]


class _ChannelsLastSyncBatchNorm(nn.SyncBatchNorm):
    """SyncBatchNorm over the last dimension."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Module's own name for it
        """Normalise (N, *S, C) per channel C."""
        return super().forward(input.flatten(0, -2)).view(input.shape)


@contextmanager
def synchronised(norms: dict[str, nn.Module]) -> Iterator[None]:
    """While it lasts, batch statistics are those of the batches of all GPUs.

    The modules stay the same objects, of another class: no key and no reference to them changes.
    """
    before = {name: type(norm) for name, norm in norms.items()}
    try:
        for norm in norms.values():
            if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
                _become(norm, nn.SyncBatchNorm)
            elif type(norm) is ChannelsLastBatchNorm1d:
                _become(norm, _ChannelsLastSyncBatchNorm)
        yield
    finally:
        for name, norm in norms.items():
            norm.__class__ = before[name]
            norm.__dict__.pop("process_group", None)


def _become(norm: Any, kind: type[nn.Module]) -> None:
    norm.__class__ = kind
    norm.process_group = None
