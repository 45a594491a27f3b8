"""Fine-tuning: it learns, it can be broken off after any step, and ranks or accumulated batches do not change it."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import retrofit
from bnretrofit.errors import InputRejectedError, TrainingDivergedError, UsageError
from bnretrofit.training import TrainingConfig, finetune, finetune_on
from bnretrofit.training.loaders import LoaderSet
from bnretrofit.training.memory_keeper import MemoryKeeper
from bnretrofit.training.parameters import trained_parameters
from bnretrofit.training.protocols import Labelled
from bnretrofit.training.rate_range import find_rate
from bnretrofit.training.results import Results
from bnretrofit.training.saving import SavedRun

CLASSES, BATCH = 4, 16


def network(*, dropout: float = 0.3) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, CLASSES)),
    ).eval()


def samples(count: int = 96) -> list[Labelled]:
    """Images whose class is how bright they are in one channel."""
    draw = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % CLASSES
    images = torch.randn(count, 3, 6, 6, generator=draw)
    images[:, 1] += labels.view(-1, 1, 1).float()
    return [(images[at : at + BATCH], labels[at : at + BATCH]) for at in range(0, count, BATCH)]


def with_norms(**options: Any) -> nn.Module:
    return retrofit(network(**options), [torch.cat([images for images, _ in samples()])])


def config(**changes: Any) -> TrainingConfig:
    return replace(TrainingConfig(epochs=3, lr=0.1, bn_stats="batch"), **changes)


def trained(model: nn.Module, settings: TrainingConfig, keeper: MemoryKeeper | None = None) -> Results:
    return finetune_on(model, LoaderSet(samples(), samples()), settings, device="cpu", keeper=keeper)


class Stopped(MemoryKeeper):
    """Ends the run when it is to save a step, as a kill does: what is saved then is lost."""

    def __init__(self, step: int | None) -> None:
        super().__init__()
        self.stop = step

    def is_due(self, step: int) -> bool:
        return step % 2 == 0

    def save(self, run: SavedRun) -> None:
        if self.stop is not None and run.progress.step >= self.stop:
            raise KeyboardInterrupt
        super().save(run)


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


def test_another_seed_gives_other_weights() -> None:
    models = [with_norms() for _ in range(2)]
    for seed, model in enumerate(models):
        trained(model, config(seed=seed))
    first, second = (model.state_dict() for model in models)
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("choice", "moves"),
    [
        ("all", {"0.layer.weight", "0.norm.weight", "9.weight", "9.bias"}),
        ("bn", {"0.norm.weight", "6.norm.bias"}),
        ("head", {"9.weight", "9.bias"}),
        ("bn+head", {"0.norm.weight", "6.norm.bias", "9.weight"}),
    ],
)
def test_what_is_trained_moves_and_nothing_else(choice: str, moves: set[str]) -> None:
    model = with_norms()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    keeper = MemoryKeeper()
    trained(model, config(train=choice), keeper)
    now = keeper.kept["last"].tensors
    moved = {name for name, parameter in before.items() if not torch.equal(parameter, now[name])}
    assert moves <= moved
    # A norm takes the bias before it away again: it is left as it is.
    assert not {"0.layer.bias", "2.layer.bias", "6.layer.bias"} & moved
    if choice == "bn":
        assert all(".norm." in name for name in moved)
    if choice == "head":
        assert moved == {"9.weight", "9.bias"}


def test_norms_and_biases_do_not_decay() -> None:
    model = with_norms(dropout=0.0)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    keeper = MemoryKeeper()
    # With a gradient of nought, what moves has decayed.
    settings = config(steps=1, lr=0.5, weight_decay=0.1, clip_grad=1e-12, warmup_steps=0, momentum=0.0)
    trained(model, settings, keeper)
    now = keeper.kept["last"].tensors
    for name, parameter in before.items():
        decayed = torch.allclose(now[name], parameter * (1 - 0.5 * 0.1), atol=1e-7)
        assert decayed is (parameter.dim() > 1), name


def test_what_a_model_names_does_not_decay() -> None:
    class Named(nn.Sequential):
        def no_weight_decay(self) -> set[str]:
            return {"9.weight"}

    model = Named(*with_norms().children())
    found = trained_parameters(model.eval(), samples()[0][0], "all")
    assert "9.weight" in found.undecayed
    assert "0.layer.weight" in found.decayed


def test_the_best_weights_are_not_made_up_when_they_are_missing() -> None:
    keeper = MemoryKeeper()
    # At this rate the first epoch is as good as it gets.
    done = trained(with_norms(), config(lr=0.0, epochs=2), keeper)
    assert done.history.best is not None
    assert done.history.best.epoch == 0
    del keeper.kept["best"]
    with pytest.raises(InputRejectedError, match="best weights of the run are missing"):
        trained(with_norms(), config(lr=0.0, epochs=2), keeper)


def test_a_run_whose_best_weights_are_missing_is_not_gone_on_with() -> None:
    keeper = Stopped(step=3)
    with pytest.raises(KeyboardInterrupt):
        trained(with_norms(), config(), keeper)
    resumed = MemoryKeeper(keeper.state)
    with pytest.raises(InputRejectedError, match="best weights of the run are missing"):
        trained(with_norms(), config(), resumed)
    # No step was done in vain.
    assert resumed.state is keeper.state


def test_frozen_statistics_stay_and_batch_statistics_move() -> None:
    for bn_stats in ("frozen", "batch"):
        model = with_norms()
        before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
        keeper = MemoryKeeper()
        trained(model, config(bn_stats=bn_stats), keeper)
        now = keeper.kept["last"].tensors
        assert all(torch.equal(buffer, now[name]) for name, buffer in before.items()) is (bn_stats == "frozen")


def test_statistics_are_measured_with_the_final_weights() -> None:
    model = with_norms()
    keeper = MemoryKeeper()
    trained(model, config(), keeper)
    last = keeper.kept["last"]
    assert last.measured
    model.load_state_dict(last.tensors)
    seen: list[Tensor] = []
    first: Any = model.get_submodule("0.norm")
    handle = first.register_forward_hook(lambda _norm, inputs, _output: seen.append(inputs[0]))
    model(torch.cat([images for images, _ in samples()]))
    handle.remove()
    rows = seen[0].detach().double().transpose(0, 1).flatten(1)
    assert torch.allclose(first.running_mean.double(), rows.mean(1), atol=1e-5)
    # Unbiased, as of eight times as many images.
    assert torch.allclose(first.running_var.double(), rows.var(1, correction=0), rtol=1e-4)


def test_pooled_batches_leave_the_statistics_of_one_large_batch() -> None:
    settings = config(steps=3, lr=0.0, warmup_steps=0)
    halves = zip(samples()[::2], samples()[1::2], strict=True)
    large = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in halves]
    states = []
    for batches, accumulate in ((large, 1), (samples(), 2)):
        keeper = MemoryKeeper()
        model = with_norms(dropout=0.0)
        # Of the first norm alone: those after it see what each batch was normalised with.
        finetune_on(
            model, LoaderSet(batches, None), replace(settings, grad_accum_steps=accumulate), device="cpu", keeper=keeper
        )
        assert keeper.state is not None
        states.append(keeper.state.tensors)
    for name in ("model.0.norm.running_mean", "model.0.norm.running_var"):
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-5, atol=1e-7)


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


def test_dropout_is_set_for_the_run_alone() -> None:
    model: Any = with_norms()
    seen: list[float] = []
    model[8].register_forward_hook(lambda dropout, _inputs, _output: seen.append(dropout.p))
    trained(model, config(epochs=1, dropout=0.1))
    assert 0.1 in seen
    assert model[8].p == 0.3
    with pytest.raises(UsageError, match="no dropout"):
        trained(nn.Sequential(nn.Flatten(), nn.Linear(108, CLASSES)), config(dropout=0.1))


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


def test_labels_beyond_the_outputs_are_refused() -> None:
    wrong = [(images, labels + 1) for images, labels in samples()]
    with pytest.raises(InputRejectedError, match=f"label is {CLASSES}"):
        finetune(with_norms(), samples(), wrong, config())


def test_the_range_test_stops_where_the_loss_rises_and_leaves_the_model() -> None:
    model = with_norms()
    before = copy.deepcopy(model.state_dict())
    found = find_rate(model, LoaderSet(samples(), None), config(), "cpu")
    assert found.risen_at is None or found.chosen < found.risen_at == found.rates[-1]
    assert list(found.rates) == sorted(found.rates)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert f"chosen: {found.chosen:.2g}" in str(found)
    assert finetune(model, samples(), samples(), config(lr=found.chosen)).epochs


def test_the_average_follows_the_pooled_statistics() -> None:
    model = with_norms(dropout=0.0)
    keeper = MemoryKeeper()
    # With a decay of nought the average is the model, norms and all.
    trained(model, config(steps=2, grad_accum_steps=3, ema_decay=0.0), keeper)
    assert keeper.state is not None
    tensors = keeper.state.tensors
    names = [name.removeprefix("model.") for name in tensors if name.startswith("model.") and "num_batches" not in name]
    assert all(torch.equal(tensors[f"model.{name}"], tensors[f"average.{name}"]) for name in names)


class Unused(nn.Module):
    """A network with a norm that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = with_norms(), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return result


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_norm_that_is_never_called_stays_as_it_is(accumulate: int) -> None:
    model = Unused().eval()
    trained(model, config(epochs=1, grad_accum_steps=accumulate))
    assert torch.equal(model.get_buffer("norm.running_var"), torch.ones(3))


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
    with pytest.raises(InputRejectedError, match="gives no step"):
        finetune(with_norms(), samples()[:2], None, config(grad_accum_steps=4))


def test_what_the_machine_or_the_state_cannot_do_is_refused() -> None:
    with pytest.raises(UsageError, match="fp16"):
        trained(with_norms(), config(amp="fp16"))
    with pytest.raises(UsageError, match="cannot be kept"):
        trained(with_norms(), config(opt="adafactorbv"))
    with pytest.raises(UsageError, match="does not run on 'xyz'"):
        finetune_on(with_norms(), LoaderSet(samples(), None), config(), device="xyz")


def test_the_environment_does_not_scale_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for number in ("1", "4"):
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", number)
        losses.append([epoch.train_loss for epoch in trained(with_norms(), config()).history.epochs])
    assert losses[0] == losses[1]


def test_settings_survive_json() -> None:
    settings = config(ema_decay=0.5, patience=3)
    assert TrainingConfig.from_json(settings.to_json()) == settings
    with pytest.raises(InputRejectedError):
        TrainingConfig.from_json({"no_such": 1})
