"""model + labelled batches -> loss and accuracy."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from bnretrofit.batches import device_of
from bnretrofit.errors import InputRejectedError
from bnretrofit.training.targets import logits_of

__all__ = ["Evaluation", "check_labels", "classes_of", "evaluate"]


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
        InputRejectedError: There is no image, or a label that the model has no output for.
    """
    modes = {module: module.training for module in model.modules()}
    device = device_of(model)
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    model.eval()
    try:
        # Not inference_mode: what a network keeps of its first pass, such as positions, is to be trained with.
        with torch.no_grad():
            for images, labels in tqdm(batches, desc="validate", unit="batch", delay=1.0, leave=False, disable=quiet):
                # float64: a sum over images must not depend on how they are batched.
                logits = logits_of(model(images.to(device)), type(model).__name__).double()
                check_labels(labels, logits.shape[1])
                known = labels.to(device)
                loss = functional.cross_entropy(logits, known, reduction="sum")
                hits = (logits.argmax(1) == known).sum()
                sums += torch.stack([loss, hits.double(), loss.new_tensor(len(labels))])
    finally:
        for module, training in modes.items():
            module.training = training
    loss_sum, hit, count = total(sums).tolist()
    if not count:
        raise InputRejectedError("there is nothing to validate on", remedy="give at least one image")
    return Evaluation(loss_sum / count, hit / count, int(count))


@torch.no_grad()
def classes_of(model: nn.Module, images: Tensor) -> int:
    """How many outputs a classifier has.

    Args:
        model: In eval mode.
        images: At least one.

    Raises:
        InputRejectedError: It is no classifier.
    """
    return logits_of(model(images), type(model).__name__).shape[1]


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse a label that there is no output for.

    Raises:
        InputRejectedError: There is one.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputRejectedError(
            f"a label is {int(labels.max())}", why=f"the network has {classes} outputs", remedy="pass --num-classes"
        )
