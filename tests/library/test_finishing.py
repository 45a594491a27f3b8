"""The end of a run: what is given as the best is the best once statistics are measured, also after another try."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bnretrofit.errors import InputRejectedError, ResourceError
from bnretrofit.training import finetune_on
from bnretrofit.training.loaders import LoaderSet
from bnretrofit.training.memory_keeper import MemoryKeeper
from bnretrofit.training.protocols import Labelled
from bnretrofit.training.results import Results
from tests.library.finetuning_cases import CLASSES, Broken, config, samples, trained, with_norms

# Running statistics that stay where they were while the weights move on.
LAGGING = config(epochs=8, bn_momentum=1e-9)


def test_the_last_weights_are_the_best_where_lagging_statistics_hid_it() -> None:
    keeper, model = MemoryKeeper(), with_norms()
    results = trained(model, LAGGING, keeper)
    chosen = results.history.best
    assert chosen is not None
    assert chosen.epoch < 8
    assert results.best == results.last
    assert results.best.epoch.epoch == 8
    kept = keeper.kept["best"]
    assert (kept.epoch, kept.measured) == (8, True)
    assert all(torch.equal(tensor, kept.tensors[name]) for name, tensor in model.state_dict().items())
    # Whoever goes on with a run that has ended finds it so.
    assert trained(with_norms(), LAGGING, keeper) == results


def test_the_best_epoch_stays_the_best_where_measuring_does_not_change_that() -> None:
    # The rate is too high: what it has learnt is lost again.
    keeper = MemoryKeeper()
    settings = config(epochs=6, lr=1.0, momentum=0.0, sched="constant", clip_grad=1.0, bn_stats="frozen")
    results = trained(with_norms(), settings, keeper)
    best, last = results.best, results.last
    assert best.evaluation is not None
    assert last.evaluation is not None
    assert best.epoch == results.history.best
    assert best.epoch != last.epoch
    assert best.evaluation.top1 >= last.evaluation.top1
    assert keeper.kept["best"].epoch == best.epoch.epoch


@pytest.mark.parametrize("kind", [InputRejectedError, ResourceError, MemoryError])
def test_what_was_trained_is_kept_where_its_statistics_cannot_be_measured(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise kind("the norm's statistics cannot be measured")

    keeper = MemoryKeeper()
    with monkeypatch.context() as patch:
        patch.setattr("bnretrofit.training.finishing.measured", refuse)
        with pytest.raises(kind, match="cannot be measured"):
            trained(with_norms(), config(), keeper)
    kept = keeper.kept["last"]
    assert (kept.epoch, kept.measured) == (3, False)
    # Nothing stands in the way of another try.
    assert trained(with_norms(), config(), keeper) == trained(with_norms(), config())


class Misled(LoaderSet):
    """In the last of five epochs it tells wrong classes."""

    def train(self, epoch: int, **ours: Any) -> Iterator[Labelled]:
        for images, labels in super().train(epoch, **ours):
            yield images, (labels + (epoch == 4)) % CLASSES


def misled(keeper: MemoryKeeper) -> Results:
    data, settings = Misled(samples(), samples()), config(epochs=5, lr=0.2, sched="constant", clip_grad=1.0)
    return finetune_on(with_norms(), data, settings, device="cpu", keeper=keeper)


def lagging(keeper: MemoryKeeper) -> Results:
    return trained(with_norms(), LAGGING, keeper)


def test_the_best_epoch_stays_the_best_with_measured_statistics() -> None:
    keeper = MemoryKeeper()
    results = misled(keeper)
    best, last = results.best, results.last
    assert best.evaluation is not None
    assert last.evaluation is not None
    assert best.epoch == results.history.best
    assert best.epoch.epoch < last.epoch.epoch == 5
    assert best.evaluation.top1 > last.evaluation.top1
    # They are not as they were judged in their epoch, and both have been measured.
    assert best.evaluation.loss != best.epoch.val_loss
    assert best.variance_ratios is not None
    assert [keeper.kept[name].measured for name in ("best", "last")] == [True, True]
    assert keeper.kept["best"].epoch == best.epoch.epoch


def unjudged(keeper: MemoryKeeper) -> Results:
    return finetune_on(with_norms(), LoaderSet(samples(), None), config(epochs=2), device="cpu", keeper=keeper)


@pytest.mark.parametrize(
    "learn", [lagging, misled, unjudged], ids=["the last becomes the best", "the best stays", "the last is the best"]
)
def test_a_run_that_breaks_off_at_its_end_ends_as_if_it_had_not(learn: Any) -> None:
    whole = Broken(None)
    results = learn(whole)
    # The state and perhaps the weights of the last epoch, the state of a run that has ended, its last and best weights.
    for write in range(whole.writes - 4, whole.writes + 1):
        broken = Broken(write)
        with pytest.raises(KeyboardInterrupt):
            learn(broken)
        assert learn(broken) == results
        assert broken.kept.keys() == whole.kept.keys()
        for name, kept in whole.kept.items():
            found = broken.kept[name]
            assert (found.epoch, found.measured) == (kept.epoch, kept.measured)
            assert all(torch.equal(tensor, found.tensors[key]) for key, tensor in kept.tensors.items())


def test_without_validation_the_last_weights_are_the_best() -> None:
    results = finetune_on(with_norms(), LoaderSet(samples(), None), config(), device="cpu")
    assert results.best == results.last
    assert not results.last.is_better_than(results.best)


def test_what_is_kept_says_how_it_was_judged_in_the_end() -> None:
    results = trained(with_norms(), LAGGING)
    found, judged = results.best.as_judged, results.best.evaluation
    assert judged is not None
    assert (found.val_top1, found.val_loss) == (judged.top1, judged.loss)
    assert found.val_loss != results.best.epoch.val_loss
