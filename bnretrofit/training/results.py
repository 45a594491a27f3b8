"""What fine-tuning came to."""

from dataclasses import dataclass, replace

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

    @property
    def as_judged(self) -> Epoch:
        """The epoch with the loss and accuracy that these weights have, statistics measured again."""
        judged = self.evaluation
        return self.epoch if judged is None else replace(self.epoch, val_loss=judged.loss, val_top1=judged.top1)

    def is_better_than(self, other: "Result") -> bool:
        """Whether it is judged to be more accurate, or as accurate at a lower loss."""
        ours, theirs = self.evaluation, other.evaluation
        return ours is not None and theirs is not None and (ours.top1, -ours.loss) > (theirs.top1, -theirs.loss)


@dataclass(frozen=True, slots=True)
class Results:
    """A finished run.

    Attributes:
        history: Epoch by epoch.
        best: Of the best epoch, or of the last one where that is better once both are measured; the model ends with
            these weights.
        last: Of the last epoch.
    """

    history: History
    best: Result
    last: Result
