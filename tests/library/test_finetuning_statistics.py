"""The running statistics that a run of fine-tuning ends with."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit.training import finetune_on
from bnretrofit.training.loaders import LoaderSet
from bnretrofit.training.memory_keeper import MemoryKeeper
from bnretrofit.training.norm_mode import smallest_batch
from bnretrofit.training_data import TrainingSource, open_training
from tests.library.finetuning_cases import BATCH, config, samples, trained, with_norms


def test_frozen_statistics_stay_and_batch_statistics_move() -> None:
    for bn_stats in ("frozen", "batch"):
        model = with_norms()
        before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
        keeper = MemoryKeeper()
        trained(model, config(bn_stats=bn_stats), keeper)
        now = keeper.kept["last"].tensors
        assert all(torch.equal(buffer, now[name]) for name, buffer in before.items()) is (bn_stats == "frozen")


@pytest.mark.parametrize(("bn_stats", "stay"), [("auto", True), ("batch", False)])
def test_the_trunk_s_statistics_stay_where_the_head_alone_is_trained(bn_stats: str, stay: bool) -> None:
    model, told, keeper = with_norms(), list[str](), MemoryKeeper()
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    settings = config(train="head", bn_stats=bn_stats, epochs=1)
    finetune_on(model, LoaderSet(samples(), None), settings, device="cpu", keeper=keeper, tell=told.append)
    now = keeper.kept["last"].tensors
    assert all(torch.equal(buffer, now[name]) for name, buffer in before.items()) is stay
    assert any("norms use their running statistics" in text for text in told) is stay
    # Batches of one image are enough where no statistics are taken.
    assert smallest_batch(model, settings, BATCH) == (1 if stay else 2)


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


def test_the_average_follows_the_pooled_statistics() -> None:
    model = with_norms(dropout=0.0)
    keeper = MemoryKeeper()
    # With a decay of nought the average is the model, norms and all.
    trained(model, config(steps=2, grad_accum_steps=3, ema_decay=0.0), keeper)
    assert keeper.state is not None
    tensors = keeper.state.tensors
    names = [name.removeprefix("model.") for name in tensors if name.startswith("model.") and "num_batches" not in name]
    assert all(torch.equal(tensors[f"model.{name}"], tensors[f"average.{name}"]) for name in names)


def test_batches_that_are_made_smaller_by_accumulating_decide_about_frozen_statistics(source: TrainingSource) -> None:
    """21 images are one batch of 20, or three of 7."""
    told: dict[int, list[str]] = {1: [], 3: []}
    opened = open_training(replace(source, batch_size=20))
    for accumulate, texts in told.items():
        settings = config(epochs=1, bn_stats="auto", grad_accum_steps=accumulate)
        finetune_on(with_norms(), opened, settings, device="cpu", tell=texts.append)
    assert "norms use the statistics of each batch" in told[1][0]
    assert "norms use their running statistics" in told[3][0]


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_synchronised_norm_moves_its_statistics_once_a_step(accumulate: int) -> None:
    """Alone on a CPU it is its own world; no pooling reaches it."""
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), nn.Flatten(), nn.Linear(64, 4)).eval()
    seen: set[float] = set()
    handle = model[1].register_forward_hook(lambda norm, *_: seen.add(norm.momentum) if norm.training else None)
    trained(model, config(epochs=1, grad_accum_steps=accumulate))
    handle.remove()
    # Besides steps there are passes that measure, before and after them, with momenta of their own.
    assert 0.9 in {round((1 - momentum) ** accumulate, 12) for momentum in seen}
    assert model[1].momentum == 0.1


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
