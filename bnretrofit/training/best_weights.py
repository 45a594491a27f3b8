"""The weights of the best epoch, which a file of their own holds."""

from bnretrofit.errors import InputRejectedError
from bnretrofit.training.history import History
from bnretrofit.training.protocols import Keeper, Weights

__all__ = ["best_weights"]


def best_weights(keeper: Keeper, history: History) -> Weights:
    """Read them: of the best epoch or, in a run that has ended, of the last one if it was better.

    Args:
        keeper: Where the run is kept.
        history: Of its epochs.

    Raises:
        InputRejectedError: They are missing, or another epoch's, and are not made up.
    """
    kept, best = keeper.weights("best"), history.best
    number = best.epoch if best else 0
    # Once they are measured, those of the last epoch may stand there: they were better.
    settled = kept is not None and kept.measured and kept.epoch == history.epochs[-1].epoch
    if kept is None or (kept.epoch != number and not settled):
        raise InputRejectedError(
            "the best weights of the run are missing",
            why=f"they are of epoch {number}, "
            + ("and nothing else holds them" if kept is None else f"and those in their place of epoch {kept.epoch}"),
            remedy="put the file back and resume, or begin another run with the last ones",
        )
    return kept
