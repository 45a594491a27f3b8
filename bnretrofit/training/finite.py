"""A run ends where its loss or its weights are no longer finite."""

import math
from collections.abc import Iterable

from torch import Tensor

from bnretrofit.errors import TrainingDivergedError

__all__ = ["check_finite", "check_weights"]


def check_finite(value: float, what: str, *, step: int, rate: float) -> None:
    """Look at a number of a run.

    Args:
        value: The number.
        what: What it is, for the message.
        step: The step it was seen at.
        rate: The learning rate of that step.

    Raises:
        TrainingDivergedError: It is not finite.
    """
    if not math.isfinite(value):
        raise TrainingDivergedError(
            f"the {what} is {value} at step {step}",
            why=f"with a learning rate of {rate:.3g}",
            remedy="what was kept last is good; try another run with a lower --lr, --clip-grad 1, more --warmup-steps "
            "or --amp no",
        )


def check_weights(weights: Iterable[Tensor], *, step: int, rate: float) -> None:
    """Look at all weights that are trained, and at the statistics that have moved with them.

    Raises:
        TrainingDivergedError: One is not finite.
    """
    # What is not finite does not become so again in a sum.
    total = sum(float(tensor.detach().double().sum()) for tensor in weights)
    check_finite(total, "sum of the weights and running statistics", step=step, rate=rate)
