"""Fine-tuning: it learns, it can be broken off after any step, and ranks or accumulated batches do not change it."""

import copy

import pytest
import torch
from torch import nn

from bnretrofit.errors import InputRejectedError, TrainingDivergedError
from bnretrofit.training import TrainingConfig, finetune, finetune_on
from bnretrofit.training.loaders import LoaderSet
from tests.library.finetuning_cases import Stopped, config, samples, trained, with_norms


@pytest.mark.parametrize("bn_stats", ["batch", "frozen"])
def test_it_learns_and_the_model_ends_with_the_best_weights(bn_stats: str) -> None:
    model = with_norms()
    before = copy.deepcopy(model.state_dict())
    settings = config(epochs=12, bn_stats=bn_stats, lr=0.1 if bn_stats == "batch" else 0.02)
    history = finetune(model, samples(), samples(), settings)
    first, best = history.epochs[0], history.best
    assert best is not None
    assert first.val_top1 is not None
    assert best.val_top1 is not None
    assert best.val_top1 > first.val_top1 + 0.2
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


SETTINGS = {
    "plain": config(),
    "averaged, mixed": config(ema_decay=0.9, mixup=0.3, cutmix=1.0, label_smoothing=0.1),
    "accumulated, adamw": config(grad_accum_steps=2, opt="adamw", clip_grad=0.5),
    "frozen": config(bn_stats="frozen", momentum=0.0),
    # It counts its steps beside the states of the parameters.
    "lamb": config(opt="lamb", lr=0.02),
    # It keeps the states of another one.
    "lookahead": config(opt="lookahead_sgd", lr=0.02),
    # Sums over tensors in the other layout, which no file holds, round otherwise.
    "lamb, channels last": config(opt="lamb", lr=0.02, channels_last=True),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("stop", [3, 7])
def test_a_run_that_is_broken_off_and_taken_up_again_ends_with_the_same_bits(name: str, stop: int) -> None:
    settings = SETTINGS[name]
    whole = with_norms()
    results = trained(whole, settings, Stopped(None))
    keeper = Stopped(stop)
    with pytest.raises(KeyboardInterrupt):
        trained(with_norms(), settings, keeper)
    assert keeper.state is not None
    assert keeper.state.progress.step < stop
    keeper.stop = None
    again = with_norms()
    assert trained(again, settings, keeper) == results
    for tensor, expected in zip(again.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected)


def test_an_optimiser_s_tensors_keep_their_dtypes() -> None:
    settings = config(opt="nadam", lr=0.01)
    whole, again, keeper = with_norms().double(), with_norms().double(), Stopped(3)
    doubled = [(images.double(), labels) for images, labels in samples()]
    finetune_on(whole, LoaderSet(doubled, doubled), settings, device="cpu", keeper=Stopped(None))
    with pytest.raises(KeyboardInterrupt):
        finetune_on(again, LoaderSet(doubled, doubled), settings, device="cpu", keeper=keeper)
    keeper.stop = None
    finetune_on(again, LoaderSet(doubled, doubled), settings, device="cpu", keeper=keeper)
    for tensor, expected in zip(again.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected)


def test_gradients_that_somebody_left_do_not_matter() -> None:
    left = with_norms()
    for parameter in left.parameters():
        parameter.grad = torch.full_like(parameter, 9.0)
    assert trained(left, config()) == trained(with_norms(), config())
    fresh = with_norms()
    trained(fresh, config())
    assert all(parameter.grad is None for parameter in fresh.parameters())


def test_the_process_and_the_model_s_layout_are_as_before() -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    finetune(with_norms(), samples(), None, config(epochs=1))
    theirs = Accelerator(mixed_precision="bf16", cpu=True)
    model, random = with_norms(), torch.get_rng_state()
    model.register_buffer("mask", torch.ones(2, 3, 4, 4))
    finetune(model, samples(), None, config(epochs=1, channels_last=True))
    assert theirs.mixed_precision == "bf16"
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
    assert torch.equal(torch.get_rng_state(), random)


def test_another_seed_gives_other_weights() -> None:
    models = [with_norms() for _ in range(2)]
    for seed, model in enumerate(models):
        trained(model, config(seed=seed))
    first, second = (model.state_dict() for model in models)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_early_stopping_says_so_and_the_best_is_what_it_began_with() -> None:
    model = with_norms()
    before = copy.deepcopy(model.state_dict())
    results = trained(model, config(epochs=50, lr=0.0, patience=2, bn_stats="frozen"))
    assert results.history.stopped == "no better accuracy in 2 epochs after epoch 0"
    assert len(results.history.epochs) == 3
    assert results.best.epoch.epoch == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_run_that_diverges_stops_and_gives_back_the_last_good_weights() -> None:
    model = with_norms()
    with pytest.raises(TrainingDivergedError, match="learning rate"):
        trained(model, config(epochs=30, lr=1e30, bn_stats="frozen"))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())


def test_the_environment_does_not_scale_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for number in ("1", "4"):
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", number)
        losses.append([epoch.train_loss for epoch in trained(with_norms(), config()).history.epochs])
    assert losses[0] == losses[1]


def test_the_state_of_an_accumulation_that_somebody_left_does_not_matter() -> None:
    from accelerate import Accelerator

    fresh = trained(with_norms(), config()).history
    theirs = Accelerator(gradient_accumulation_steps=4, cpu=True)
    with theirs.accumulate(nn.Linear(1, 1)):
        assert not theirs.sync_gradients
    assert trained(with_norms(), config()).history == fresh


def test_settings_survive_json() -> None:
    settings = config(ema_decay=0.5, patience=3)
    assert TrainingConfig.from_json(settings.to_json()) == settings
    with pytest.raises(InputRejectedError):
        TrainingConfig.from_json({"no_such": 1})
