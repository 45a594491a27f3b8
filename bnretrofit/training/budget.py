"""How long a run is."""

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.training.admitted_settings import check_warmup
from bnretrofit.training.config import TrainingConfig
from bnretrofit.training.protocols import TrainingSet

__all__ = ["check_patience", "steps_in_all"]


def steps_in_all(config: TrainingConfig, per_epoch: int | None) -> int:
    """The steps of a run.

    Args:
        config: How it is trained.
        per_epoch: Steps of an epoch; None where nobody knows.

    Raises:
        InputRejectedError: There are none, or nobody knows how many.
        UsageError: There are fewer than warm-up steps.
    """
    if per_epoch == 0:
        remedy = "take a smaller batch, fewer batches per step, or more images"
        raise InputRejectedError("the training set gives no step", remedy=remedy)
    if config.steps is not None:
        return config.steps
    if per_epoch is None:
        raise InputRejectedError("nobody knows how long an epoch of the stream is", remedy="pass --steps")
    steps = config.epochs * per_epoch
    check_warmup(config, steps)
    return steps


def check_patience(config: TrainingConfig, data: TrainingSet, rank: int, ranks: int) -> None:
    """Refuse to wait for a better accuracy where none is measured.

    Raises:
        UsageError: It would be waited for.
    """
    if config.patience is not None and data.validation(rank, ranks) is None:
        raise UsageError(
            "patience waits for a better accuracy, and there is nothing to validate with",
            remedy="give --val or --val-split, or leave out --patience",
        )
