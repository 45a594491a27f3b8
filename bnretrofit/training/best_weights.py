"""The weights of the best epoch, which a file of their own holds."""

from bnretrofit.errors import InputRejectedError
from bnretrofit.training.history import History
from bnretrofit.training.protocols import Keeper, Weights

__all__ = ["best_weights"]


def best_weights(keeper: Keeper, history: History) -> Weights:
    """Read them.

    Args:
        keeper: Where the run is kept.
        history: Of its epochs.

    Raises:
        InputRejectedError: They are missing, and are not made up.
    """
    kept, best = keeper.weights("best"), history.best
    if kept is None:
        raise InputRejectedError(
            "the best weights of the run are missing",
            why=f"they are of epoch {best.epoch if best else 0}, and nothing else holds them",
            remedy="put the file back and resume, or begin another run with the last ones",
        )
    return kept
