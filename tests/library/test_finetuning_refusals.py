"""What fine-tuning refuses, by name and before it has moved anything."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit.errors import InputRejectedError, TrainingDivergedError, UsageError
from bnretrofit.training import finetune, finetune_on, finetuning
from bnretrofit.training.history import Epoch
from bnretrofit.training.loaders import LoaderSet
from bnretrofit.training.memory_keeper import MemoryKeeper
from tests.library.finetuning_cases import CLASSES, Stopped, config, samples, trained, with_norms

STILL = config(lr=0.0, epochs=2, bn_stats="frozen")


def test_the_best_weights_are_not_made_up_when_they_are_missing() -> None:
    keeper = MemoryKeeper()
    # At this rate no epoch is better than the first.
    done = trained(with_norms(), STILL, keeper)
    assert done.history.best is not None
    assert done.history.best.epoch == 0
    del keeper.kept["best"]
    with pytest.raises(InputRejectedError, match="best weights of the run are missing"):
        trained(with_norms(), STILL, keeper)


def test_a_run_whose_best_weights_are_missing_is_not_gone_on_with() -> None:
    keeper = Stopped(step=3)
    with pytest.raises(KeyboardInterrupt):
        trained(with_norms(), config(), keeper)
    resumed = MemoryKeeper(keeper.state)
    with pytest.raises(InputRejectedError, match="best weights of the run are missing"):
        trained(with_norms(), config(), resumed)
    # No step was done in vain.
    assert resumed.state is keeper.state


def test_weights_of_another_epoch_are_not_taken_for_the_best() -> None:
    keeper = MemoryKeeper()
    trained(with_norms(), STILL, keeper)
    keeper.kept["best"] = replace(keeper.kept["best"], epoch=1)
    with pytest.raises(InputRejectedError, match="they are of epoch 0, and those in their place of epoch 1"):
        trained(with_norms(), STILL, keeper)


class NoRoom(MemoryKeeper):
    """The disk is full when the weights of an epoch are to be kept, whose state was saved."""

    full = True

    def keep(self, name: str, tensors: dict[str, Tensor], epoch: Epoch, *, measured: bool) -> None:
        if self.full and name == "best" and epoch.epoch:
            raise OSError("no space left on device")
        super().keep(name, tensors, epoch, measured=measured)


def test_best_weights_that_could_not_be_kept_are_written_by_whoever_goes_on() -> None:
    settings, keeper, whole = config(epochs=12), NoRoom(), with_norms()
    results = trained(whole, settings)
    assert results.best.epoch.epoch > 0
    with pytest.raises(OSError, match="no space"):
        trained(with_norms(), settings, keeper)
    assert keeper.kept["best"].epoch == 0
    # The state knows of the epoch, and holds its weights.
    assert keeper.state is not None
    known = keeper.state.progress.history.best
    assert known is not None
    assert known.epoch > 0
    keeper.full = False
    again = with_norms()
    assert trained(again, settings, keeper) == results
    assert keeper.kept["best"].epoch == results.best.epoch.epoch
    for tensor, expected in zip(again.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_refused(dtype: torch.dtype) -> None:
    model = with_norms()
    model.get_submodule("9").to(dtype)
    with pytest.raises(UsageError, match=r"9\.weight: a model in half precision is not fine-tuned"):
        finetune(model, samples(), samples(), config())


def test_a_batch_of_one_is_refused_with_batch_statistics_only() -> None:
    ones = [(images[:1], labels[:1]) for images, labels in samples()]
    with pytest.raises(InputRejectedError, match="batch of one image"):
        finetune_on(with_norms(), LoaderSet(ones, None), config(), device="cpu")
    finetune_on(with_norms(), LoaderSet(ones, None), config(epochs=1, bn_stats="auto"), device="cpu")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"opt": "no_such"}, "no_such"),
        ({"sched": "no_such"}, "sched"),
        ({"lr": -1.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"dropout": 2.0}, "dropout"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        trained(with_norms(), config(**changes))


@pytest.mark.parametrize("name", ["9.weight", "0.norm.running_var"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_is_not_finite_is_refused_and_no_rate_is_blamed(name: str, value: float) -> None:
    model = with_norms()
    model.state_dict()[name].view(-1)[1] = value
    with pytest.raises(InputRejectedError, match=f"{name}: the network holds NaN or infinity"):
        trained(model, config())


def test_running_statistics_that_overflow_end_a_run_without_validation_too() -> None:
    images, labels = samples()[0]
    model = with_norms()
    # Each batch is finite, and its variance is not.
    with pytest.raises(TrainingDivergedError, match="running statistics is"):
        finetune_on(model, LoaderSet([(images * 1e20, labels)], None), config(epochs=1, lr=0.0), device="cpu")


def test_processes_whose_epochs_differ_are_refused() -> None:
    ranks = SimpleNamespace(
        num_processes=2, device=torch.device("cpu"), gather=lambda mine: torch.stack([mine[0], mine[0] + 1])
    )
    with pytest.raises(UsageError, match="not have as many steps in an epoch: 3, 4"):
        finetuning._check_alike(3, ranks)
    finetuning._check_alike(3, SimpleNamespace(num_processes=1, device=torch.device("cpu")))


def test_labels_beyond_the_outputs_are_refused() -> None:
    wrong = [(images, labels + 1) for images, labels in samples()]
    with pytest.raises(InputRejectedError, match=f"label is {CLASSES}"):
        finetune(with_norms(), samples(), wrong, config())


def test_batches_that_cannot_be_trained_on_are_refused() -> None:
    short = [*samples()[:2], (samples()[0][0][:1], samples()[0][1][:1])]
    with pytest.raises(InputRejectedError, match="batch of one image has no statistics"):
        finetune(with_norms(), short, None, config())
    ones = [(images[:1], labels[:1]) for images, labels in samples()]
    with pytest.raises(InputRejectedError, match="cannot be mixed"):
        finetune(with_norms(), ones, None, config(bn_stats="frozen", mixup=0.2))
    wrong = [(images, labels + 1) for images, labels in samples()]
    with pytest.raises(InputRejectedError, match=f"label is {CLASSES}"):
        finetune(with_norms(), wrong, None, config())
    few = r"an epoch has 2 batches, and a step takes 4 \(--grad-accum-steps\)"
    with pytest.raises(InputRejectedError, match=few):
        finetune(with_norms(), samples()[:2], None, config(grad_accum_steps=4))


class Paired(nn.Sequential):
    """Gives what its auxiliary head says, too, in training mode."""

    def forward(self, input: Tensor) -> Any:  # noqa: A002 - torch's name for it
        output = input
        for layer in self:
            output = layer(output)
        return (output, output) if self.training else output


def test_a_network_that_gives_no_logits_in_training_mode_is_refused_at_once() -> None:
    keeper = MemoryKeeper()
    with pytest.raises(InputRejectedError, match=r"Paired in training mode: the network does not give logits"):
        trained(Paired(*with_norms().children()), config(), keeper)
    assert not keeper.kept


def test_sets_that_can_be_gone_through_once_only_are_refused_at_once() -> None:
    with pytest.raises(UsageError, match="the training set can be gone through once only"):
        finetune(with_norms(), iter(samples()), None, config())
    with pytest.raises(UsageError, match="the validation set can be gone through once only"):
        finetune(with_norms(), samples(), iter(samples()), config())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"opt": "adamw", "momentum": 0.3}, "momentum would do nothing: the optimiser 'adamw' has none"),
        ({"train": "bn", "weight_decay": 0.3}, "weight_decay would do nothing: train=bn trains nothing that decays"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        trained(with_norms(), config(**changes))
    trained(with_norms(), config(epochs=1, **{**changes, "momentum": 0.9, "weight_decay": 0.0}))


def test_what_the_machine_or_the_state_cannot_do_is_refused() -> None:
    with pytest.raises(UsageError, match="fp16"):
        trained(with_norms(), config(amp="fp16"))
    with pytest.raises(UsageError, match="cannot be kept"):
        trained(with_norms(), config(opt="adafactorbv"))
    with pytest.raises(UsageError, match="does not run on 'xyz'"):
        finetune_on(with_norms(), LoaderSet(samples(), None), config(), device="xyz")


@pytest.mark.parametrize(
    ("amp", "what"), [("no", "accelerate cannot be started here"), ("bf16", "--amp bf16 does not")]
)
def test_what_accelerate_cannot_do_is_said_in_its_words(amp: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise ValueError("MASTER_ADDR was not set")

    monkeypatch.setattr("accelerate.Accelerator", refuse)
    with pytest.raises(UsageError, match=f"{what}.*MASTER_ADDR was not set"):
        finetune(with_norms(), samples(), samples(), config(amp=amp))
