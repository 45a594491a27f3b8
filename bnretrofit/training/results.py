"""What fine-tuning came to."""

from dataclasses import dataclass

from bnretrofit.training.evaluation import Evaluation
from bnretrofit.training.history import Epoch, History

__all__ = ["Result", "Results"]


@dataclass(frozen=True, slots=True)
class Result:
    """Weights that are given as a result.

    Attributes:
        epoch: The epoch they are of, as it was judged then.
        evaluation: As they are judged with the statistics measured again; None without validation images.
    """

    epoch: Epoch
    evaluation: Evaluation | None


@dataclass(frozen=True, slots=True)
class Results:
    """A finished run.

    Attributes:
        history: Epoch by epoch.
        best: Of the best epoch; the model ends with these weights.
        last: Of the last epoch.
    """

    history: History
    best: Result
    last: Result
