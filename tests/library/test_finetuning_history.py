"""Which epoch of a run is the best, and how long it has waited for a better one."""

import pytest

from bnretrofit.training.history import Epoch, History


def history(*rows: tuple[float, float]) -> History:
    """Epochs of these accuracies and losses."""
    return History(tuple(Epoch(number, number, 0.1, 1.0, loss, top1) for number, (top1, loss) in enumerate(rows)))


@pytest.mark.parametrize(
    ("rows", "best", "waited"),
    [
        (((0.5, 2.0), (0.9, 1.0), (0.9, 0.8)), 2, 1),
        (((0.5, 2.0), (0.9, 0.8), (0.9, 1.0)), 1, 1),
        (((0.9, 1.0), (0.9, 1.0), (0.9, 1.0)), 0, 2),
        (((0.9, 1.0), (0.9, 0.5), (0.8, 0.1), (0.9, 0.5)), 1, 3),
        (((0.9, 0.1), (1.0, 3.0)), 1, 0),
    ],
)
def test_equal_accuracies_are_told_apart_by_the_loss_which_does_not_make_patience_wait(
    rows: tuple[tuple[float, float], ...], best: int, waited: int
) -> None:
    found = history(*rows)
    assert found.best is found.epochs[best]
    assert found.since_best() == waited


def test_without_validation_the_best_epoch_is_the_last() -> None:
    epochs = tuple(Epoch(number, number, 0.1, 1.0, None, None) for number in range(3))
    assert History(epochs).best is epochs[2]
    assert History(epochs).since_best() == 0
    assert History().best is None
