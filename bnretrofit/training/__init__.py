"""Fine-tuning: networks with norms and labelled images -> better weights."""

from collections.abc import Iterable

from torch import nn

from bnretrofit.training.config import TrainingConfig
from bnretrofit.training.finetuning import train
from bnretrofit.training.history import Epoch, History
from bnretrofit.training.loaders import LoaderSet
from bnretrofit.training.protocols import Labelled

__all__ = ["Epoch", "History", "TrainingConfig", "finetune", "train"]


def finetune(
    model: nn.Module,
    train_batches: Iterable[Labelled],
    val_batches: Iterable[Labelled] | None,
    config: TrainingConfig,
    *,
    device: str | None = None,
) -> History:
    """Fine-tune a classifier; this is the one verb that changes its argument.

    Args:
        model: A network, with norms or without; it ends with the weights of its best epoch (of the last one without
            validation batches) and running statistics measured with them, in the mode and on the device it came in.
        train_batches: Gives (images (N, C, H, W), labels (N,)) each time it is gone through, such as a DataLoader.
        val_batches: The same for validation; None without.
        config: How.
        device: "cpu", or None for what there is; under `accelerate launch` or `torchrun`, each rank's own.

    Returns:
        What happened in each epoch.

    Raises:
        UsageError: The settings do not fit the model or the machine.
        InputRejectedError: The model is no classifier of these images, or a batch has one image.
        TrainingDivergedError: The loss is not finite any more; the model has the weights of the epoch before.
    """
    return train(model, LoaderSet(train_batches, val_batches), config, device=device).history
