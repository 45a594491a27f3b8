"""What fine-tuning came to."""

from dataclasses import dataclass

from bnretrofit.scales import Scales
from bnretrofit.training.evaluation import Evaluation
from bnretrofit.training.history import Epoch, History

__all__ = ["Result", "Results"]


@dataclass(frozen=True, slots=True)
class Result:
    """Weights that are given as a result.

    Attributes:
        epoch: The epoch they are of, as it was judged then.
        evaluation: As they are judged with the statistics measured again; None without validation images.
        scales: Of the norms, with these statistics; None without norms.
        variance_ratios: The least and the largest running variance over the one that was measured again; None where
            none was.
    """

    epoch: Epoch
    evaluation: Evaluation | None
    scales: Scales | None = None
    variance_ratios: tuple[float, float] | None = None


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
