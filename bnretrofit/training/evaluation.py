"""model + labelled batches -> loss and accuracy."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from bnretrofit.batches import device_of
from bnretrofit.errors import InputRejectedError
from bnretrofit.training.admitted_batches import admitted, check_labels
from bnretrofit.training.logits import logits_on
from bnretrofit.training.protocols import TrainingSet

__all__ = ["Evaluation", "classes_of", "evaluate", "evaluate_on_ranks"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a classifier achieves.

    Attributes:
        loss: Mean cross-entropy.
        top1: Share of the images whose class was told right, 0 to 1.
        images: How many there were.
    """

    loss: float
    top1: float
    images: int


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
    *,
    quiet: bool = False,
) -> Evaluation:
    """Run a model in eval mode over labelled batches; it comes back in the mode it came in.

    Args:
        model: A classifier.
        batches: Images (N, C, H, W) and labels (N,).
        total: Sums over all ranks.
        quiet: Show no progress.

    Raises:
        InputRejectedError: There is no image, the model does not run on a batch or has no output for a label, or the
            loss is not finite since the images are not.
    """
    modes = {module: module.training for module in model.modules()}
    device = device_of(model)
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    model.eval()
    try:
        # Not inference_mode: what a network keeps of its first pass, such as positions, is to be trained with.
        with torch.no_grad():
            shown = tqdm(batches, desc="validate", unit="batch", delay=1.0, leave=False, disable=quiet)
            for number, batch in enumerate(shown, start=1):
                images, labels = admitted(batch, f"validation batch {number}")
                images = images.to(device)
                # float64: a sum over images must not depend on how they are batched.
                logits = logits_on(model, images).double()
                check_labels(labels, logits.shape[1])
                known = labels.to(device)
                loss = functional.cross_entropy(logits, known, reduction="sum")
                hits = (logits.argmax(1) == known).sum()
                unclean = (~images.isfinite().reshape(len(images), -1).all(1)).sum()
                sums += torch.stack([loss, hits.double(), loss.new_tensor(len(labels)), unclean.double()])
    finally:
        for module, training in modes.items():
            module.training = training
    loss_sum, hit, count, unclean_images = total(sums).tolist()
    if not count:
        raise InputRejectedError("there is nothing to validate on", remedy="give at least one image")
    if unclean_images and not math.isfinite(loss_sum):
        raise InputRejectedError(
            f"{int(unclean_images)} of {int(count)} validation images hold values that are NaN or infinite",
            remedy="check the files and the preprocessing",
        )
    return Evaluation(loss_sum / count, hit / count, int(count))


def evaluate_on_ranks(model: nn.Module, data: TrainingSet, accelerator: Any) -> Evaluation | None:
    """`evaluate` on all validation images, of which each rank takes its share; None without any.

    Args:
        model: The same on all ranks.
        data: Whose validation images.
        accelerator: Accelerate's view of this process.
    """
    batches = data.validation(accelerator.process_index, accelerator.num_processes)
    if batches is None:
        return None

    def total(sums: Tensor) -> Tensor:
        reduced: Tensor = accelerator.reduce(sums, reduction="sum")
        return reduced

    return evaluate(model, batches, total, quiet=not accelerator.is_main_process)


@torch.no_grad()
def classes_of(model: nn.Module, images: Tensor) -> int:
    """How many outputs a classifier has.

    Args:
        model: In eval mode.
        images: At least one.

    Raises:
        InputRejectedError: It is no classifier, or does not run on them.
    """
    return logits_on(model, images).shape[1]
