"""Fine-tuning: networks with norms and labelled images -> better weights."""

from collections.abc import Iterable

from torch import nn

from bnretrofit.batches import device_of
from bnretrofit.training.config import TrainingConfig
from bnretrofit.training.devices import process_kept
from bnretrofit.training.finetuning import finetune_on
from bnretrofit.training.history import Epoch, History
from bnretrofit.training.loaders import LoaderSet
from bnretrofit.training.protocols import Labelled

__all__ = ["Epoch", "History", "TrainingConfig", "finetune", "finetune_on"]


def finetune(
    model: nn.Module,
    train: Iterable[Labelled],
    val: Iterable[Labelled] | None,
    config: TrainingConfig,
) -> History:
    """Fine-tune a classifier; this is the one verb that changes its argument.

    Args:
        model: A network, with norms or without; it ends with the weights of its best epoch (of the last one without
            validation batches) and running statistics measured with them, in the mode that it came in. On the
            CPU it is trained there; otherwise on accelerate's GPU, of each rank its own, and ends where it was.
        train: Gives (images (N, C, H, W), labels (N,)) each time it is gone through, such as a DataLoader.
        val: The same for validation; None without.
        config: How.

    Returns:
        What happened in each epoch.

    Raises:
        UsageError: The settings do not fit the model or the machine.
        InputRejectedError: The model is no classifier of these images, or a batch has one image.
        TrainingDivergedError: The loss is not finite any more; the model has the weights of the epoch before.
    """
    device = "cpu" if device_of(model).type == "cpu" else None
    with process_kept():
        return finetune_on(model, LoaderSet(train, val), config, device=device).history
