"""model + training images -> the running statistics of its final weights, on images as they were trained on.

Running statistics lag behind the weights. They are measured on images that are augmented as in training: those are what
the weights have learnt to expect (measured: see docs/finetuning.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bnretrofit.batches import device_of
from bnretrofit.norms import running_norms
from bnretrofit.recalibration import recalibrate
from bnretrofit.training.admitted_batches import admitted
from bnretrofit.training.logits import logits_on
from bnretrofit.training.norm_mode import momentum_set
from bnretrofit.training.protocols import TrainingSet
from bnretrofit.training.step_statistics import pooled_statistics

__all__ = ["Measured", "measured", "training_images"]

IMAGES = 2048
"""Of a dense layer's channel, with one value per image, the mean is then known to 2 % of its standard deviation."""

BYTES = 512 << 20
"""The images are held in memory: there may be fewer of large ones, of which each has more values per channel."""

EPOCHS = 8
"""Of a small set, each image is taken so often at most: augmented in another way each time."""


def training_images(data: TrainingSet) -> list[Tensor]:
    """Images (N, C, H, W) as the first epochs show them; the same for all ranks."""
    found: list[Tensor] = []
    for epoch in range(EPOCHS):
        for number, batch in enumerate(data.train(epoch), start=1):
            images, _ = admitted(batch, f"training batch {number}")
            found.append(images)
            count = sum(map(len, found))
            if count >= IMAGES or sum(batch.nbytes for batch in found) >= BYTES:
                return found
    return found


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured.

    Attributes:
        model: A copy of the model with the new statistics.
        ratios: The least and the largest running variance over the measured one, with eps.
    """

    model: nn.Module
    ratios: tuple[float, float]


def measured(model: nn.Module, images: list[Tensor], *, quiet: bool = False) -> Measured:
    """Measure the running statistics of all norms with the weights as they are.

    First in one pass in which every norm takes what arrives, as it flows: that brings all of them near at once. Then
    `recalibrate` goes on in eval mode until nothing moves.

    Args:
        model: In eval mode; its running statistics are changed, and how many batches they count.
        images: Batches.
        quiet: Show no progress.
    """
    norms = running_norms(model)
    lagging = _variances(norms)
    before = {name: module.training for name, module in norms.items()}
    with momentum_set(norms, 1.0), pooled_statistics(norms, lambda mine: [mine]) as pool, torch.no_grad():
        for norm in norms.values():
            norm.training = True
        try:
            for batch in tqdm(images, desc="statistics", unit="batch", delay=1.0, leave=False, disable=quiet):
                if len(batch) > 1:
                    logits_on(model, batch.to(device_of(model)))
            pool()
        finally:
            for name, norm in norms.items():
                norm.training = before[name]
    found = recalibrate(model, images).model
    # Of all that was measured: `recalibrate` knows what the first pass has left.
    ratios = lagging / _variances(running_norms(found))
    return Measured(found, (float(ratios.min()), float(ratios.max())))


def _variances(norms: Mapping[str, Any]) -> Tensor:
    return torch.cat([(norm.running_var.double() + norm.eps).cpu() for norm in norms.values()])
