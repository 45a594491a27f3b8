"""How long a run is."""

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.training.admitted_settings import check_warmup
from bnretrofit.training.config import TrainingConfig
from bnretrofit.training.protocols import TrainingSet

__all__ = ["check_budget", "check_patience", "check_step", "steps_in_all"]


def check_budget(config: TrainingConfig, data: TrainingSet, rank: int, ranks: int) -> None:
    """Refuse a run whose length does not fit its images, before anything is made of it.

    Args:
        config: How it is trained.
        data: What it learns from.
        rank: Which process this is.
        ranks: Of how many.

    Raises:
        UsageError: It waits for an accuracy that nobody measures, or it is shorter than its warm-up.
        InputRejectedError: An epoch has no step, or nobody knows how many.
    """
    check_patience(config, data, rank, ranks)
    check_step(config, data, ranks)
    steps_in_all(config, data.batches_per_epoch(ranks, config.grad_accum_steps))


def steps_in_all(config: TrainingConfig, per_epoch: int | None) -> int:
    """The steps of a run.

    Args:
        config: How it is trained.
        per_epoch: Steps of an epoch; None where nobody knows.

    Raises:
        InputRejectedError: Nobody knows how many.
        UsageError: There are fewer than warm-up steps.
    """
    if config.steps is not None:
        return config.steps
    if per_epoch is None:
        raise InputRejectedError("nobody knows how long an epoch of the stream is", remedy="pass --steps")
    steps = config.epochs * per_epoch
    check_warmup(config, steps)
    return steps


def check_step(config: TrainingConfig, data: TrainingSet, ranks: int) -> None:
    """Refuse an epoch that is too short for one step.

    Raises:
        InputRejectedError: It is.
    """
    if data.batches_per_epoch(ranks, config.grad_accum_steps) != 0:
        return
    batches = data.batches_per_epoch(ranks, 1)
    of_each = "" if ranks == 1 else " on each process"
    raise InputRejectedError(
        "the training set gives no step",
        why=f"an epoch has {batches} batches{of_each}, and a step takes {config.grad_accum_steps} (--grad-accum-steps)",
        remedy="lower --grad-accum-steps, take a smaller batch, or add images",
    )


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
