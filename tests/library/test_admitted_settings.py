"""Settings of fine-tuning that are refused: of another type, out of range, or at odds with others."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.training import TrainingConfig, finetune
from bnretrofit.training.loaders import LoaderSet
from bnretrofit.training.rate_range import find_rate
from tests.library.finetuning_cases import config, network, samples, with_norms


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": "3"},
        {"epochs": 2.5},
        {"epochs": None},
        {"epochs": True},
        {"steps": 2.0},
        {"seed": 1.5},
        {"patience": "2"},
        {"grad_accum_steps": torch.tensor(2)},
        {"lr": "0.1"},
        {"lr": None},
        {"lr": True},
        {"momentum": [0.9]},
        {"ema_decay": "0.9"},
        {"channels_last": "yes"},
        {"channels_last": 1},
        {"opt": 3},
        {"train": ["all"]},
        {"bn_stats": None},
    ],
    ids=str,
)
def test_a_setting_of_another_type_is_named(given: dict[str, Any]) -> None:
    ((name, value),) = given.items()
    with pytest.raises(UsageError, match=f"^{name} is ") as refused:
        TrainingConfig(**given)
    assert repr(value) in str(refused.value)
    assert f"that is a {type(value).__name__}" in str(refused.value)


def test_numbers_of_numpy_become_python_s() -> None:
    settings = TrainingConfig(epochs=np.int64(3), lr=np.float64(0.25), seed=np.int32(1))  # type: ignore[arg-type]
    assert settings == TrainingConfig(epochs=3, lr=0.25, seed=1)
    assert [type(each) for each in (settings.epochs, settings.lr, settings.seed)] == [int, float, int]
    assert isinstance(TrainingConfig(lr=1).lr, float)


def test_names_and_answers_of_numpy_become_python_s() -> None:
    settings = TrainingConfig(opt=np.str_("adamw"), channels_last=np.True_, ema_warmup=np.False_)  # type: ignore[arg-type]
    assert settings == TrainingConfig(opt="adamw", channels_last=True)
    assert [type(each) for each in (settings.opt, settings.channels_last, settings.ema_warmup)] == [str, bool, bool]


@pytest.mark.parametrize(
    "given",
    [
        {"lr": 10**400},
        {"lr": Fraction(10**400)},
        {"epochs": 10**400},
        {"steps": 10**5000},
        {"seed": -(10**400)},
        {"patience": 2**63},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_number_that_nothing_holds_is_refused(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(UsageError, match=f"^{name} is a number of too many digits. Take one of at most 18$"):
        TrainingConfig(**given)


def test_stored_settings_of_another_type_are_damaged() -> None:
    with pytest.raises(InputRejectedError, match="stored settings of a run are damaged: epochs is '3'"):
        TrainingConfig.from_json({"epochs": "3"})


@pytest.mark.parametrize("decay", [1, 1.0, 1.5, -0.1])
def test_an_average_that_would_never_move_is_refused(decay: float) -> None:
    with pytest.raises(UsageError, match=r"ema_decay is .* of at least 0 and below 1"):
        TrainingConfig(ema_decay=decay)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bn_momentum": 0.1, "bn_stats": "frozen"}, "bn_momentum and bn_stats=frozen exclude each other"),
        ({"bn_momentum": 0.1, "train": "head"}, "bn_momentum and train=head exclude each other"),
        ({"min_lr": 0.2, "lr": 0.1}, "min_lr is 0.2, and lr is 0.1"),
        ({"min_lr": 0.01, "lr": 0.1, "sched": "constant"}, "min_lr and sched=constant exclude each other"),
        ({"ema_warmup": True}, "ema_warmup would do nothing without ema_decay"),
        ({"steps": 5, "warmup_steps": 6}, "warmup_steps is 6, and the run has 5 steps"),
    ],
    ids=str,
)
def test_settings_that_are_at_odds_are_refused_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TrainingConfig(**given)


def test_settings_that_just_go_together_are_taken() -> None:
    assert TrainingConfig(min_lr=0.1, lr=0.1, steps=5, warmup_steps=5, ema_decay=0.0, bn_momentum=0.1).steps == 5
    assert TrainingConfig(min_lr=0.0, sched="constant", ema_warmup=True, ema_decay=0.9).ema_warmup
    assert TrainingConfig(bn_momentum=0.1, train="head", bn_stats="batch").bn_momentum == 0.1


def test_warm_up_beyond_the_epochs_is_refused() -> None:
    with pytest.raises(UsageError, match="warmup_steps is 7, and the run has 6 steps"):
        finetune(with_norms(), samples(), samples(), config(epochs=1, warmup_steps=7))
    # A rate is searched for in steps of its own.
    assert find_rate(with_norms(), LoaderSet(samples(), None), config(epochs=1, warmup_steps=6), "cpu").chosen


def test_a_momentum_of_statistics_that_do_not_move_is_refused() -> None:
    few = [(images[:4], labels[:4]) for images, labels in samples()]
    with pytest.raises(UsageError, match=r"bn_momentum would do nothing.* batches of 4 images"):
        finetune(with_norms(), few, None, config(bn_stats="auto", bn_momentum=0.1))
    with pytest.raises(UsageError, match="bn_momentum would do nothing: the network has no norms"):
        finetune(network(), samples(), None, config(bn_momentum=0.1))
