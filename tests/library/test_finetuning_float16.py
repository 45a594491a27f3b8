"""Steps that a scaler of float16 gradients leaves out; the scaler is a GPU's, run here on the CPU."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit.errors import TrainingDivergedError
from bnretrofit.training import finetuning
from bnretrofit.training.devices import accelerator_for
from bnretrofit.training.memory_keeper import MemoryKeeper
from tests.library.finetuning_cases import config, trained, with_norms

FIRST_SCALE = 2.0**127
"""The largest that float32 holds: the first losses, of 1.4, are too large by it, and a step or two is left out."""


@pytest.fixture(autouse=True)
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_scaler(device: str | None, amp: str) -> Any:
        made = accelerator_for(device, amp)
        made.scaler = torch.amp.GradScaler("cpu", init_scale=FIRST_SCALE)
        return made

    monkeypatch.setattr(finetuning, "accelerator_for", with_scaler)


class Rooted(nn.Module):
    """The square root of zero is zero, and its gradient is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.body = with_norms()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits + torch.sqrt((0 * logits).square().sum())


def test_a_run_whose_steps_are_all_left_out_ends_as_one_that_diverges() -> None:
    with pytest.raises(TrainingDivergedError, match="gradients of 30 steps one after the other are not finite"):
        trained(Rooted(), config(epochs=6))


def test_a_step_that_is_left_out_now_and_then_does_no_harm() -> None:
    keeper = MemoryKeeper()
    history = trained(with_norms(), config(epochs=6), keeper).history
    assert len(history.epochs) == 7
    assert keeper.state is not None
    assert FIRST_SCALE / 2**10 < keeper.state.document["scaler"]["scale"] < FIRST_SCALE
    assert history.epochs[-1].val_loss != history.epochs[0].val_loss
