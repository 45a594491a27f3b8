"""The average of the weights: its decay is what was asked for, and one that hardly follows is told."""

from torch import nn

from bnretrofit.training import TrainingConfig, finetune_on
from bnretrofit.training.averaging import average_of, share_of_the_start, update_average
from bnretrofit.training.loaders import LoaderSet
from tests.library.finetuning_cases import config, samples, with_norms


def followed(decay: float, steps: int, *, warmup: bool) -> float:
    """How far an average of noughts has come towards ones."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = average_of(model, decay, warmup=warmup)
    # timm's average takes over what the first step leaves.
    update_average(average, model, 1, 0)
    nn.init.ones_(model.weight)
    for step in range(steps):
        update_average(average, model, step + 2, 0)
    come: float = average.module.weight.item()
    return come


def test_the_decay_is_that_which_was_asked_for() -> None:
    assert abs(followed(0.9, 10, warmup=False) - (1 - 0.9**10)) < 1e-6
    assert abs(followed(0.999, 10, warmup=False) - (1 - 0.999**10)) < 1e-6
    # It follows at once then: after ten steps next to nothing of the start is left.
    assert followed(0.999, 10, warmup=True) > 0.98


def told(settings: TrainingConfig) -> list[str]:
    sentences: list[str] = []
    finetune_on(with_norms(), LoaderSet(samples(), None), settings, device="cpu", tell=sentences.append)
    return [sentence for sentence in sentences if "the run began with" in sentence]


def test_an_average_that_hardly_follows_is_told() -> None:
    (sentence,) = told(config(epochs=1, ema_decay=0.9998))
    assert sentence.startswith("after 6 steps with a decay of 0.9998, 100 % of the weights' average")
    assert told(config(epochs=1, ema_decay=0.5)) == []
    assert told(config(epochs=1, ema_decay=0.9998, ema_warmup=True)) == []


def test_the_share_of_the_start_is_what_an_average_has_not_followed_of() -> None:
    assert share_of_the_start(None, 100, warmup=False) is None
    for decay, steps in ((0.9, 3), (0.75, 5), (0.99, 100)):
        # The first step is taken over whole, and is none to follow: 0.9 ** 2 is 81 %, and 0.9 ** 3 73 %.
        left = 100 * (1 - followed(decay, steps - 1, warmup=False))
        found = share_of_the_start(decay, steps, warmup=False)
        assert found is not None
        assert f" {left:.0f} % of the weights' average" in found
