"""Which parameters fine-tuning moves, which of them decay, and what it does with dropout."""

from typing import Any

import pytest
import torch
from torch import nn

from bnretrofit.errors import UsageError
from bnretrofit.training.memory_keeper import MemoryKeeper
from bnretrofit.training.parameters import trained_parameters
from tests.library.finetuning_cases import CLASSES, config, samples, trained, with_norms


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


def test_dropout_is_set_for_the_run_alone() -> None:
    model: Any = with_norms()
    seen: list[float] = []
    model[8].register_forward_hook(lambda dropout, _inputs, _output: seen.append(dropout.p))
    trained(model, config(epochs=1, dropout=0.1))
    assert 0.1 in seen
    assert model[8].p == 0.3
    with pytest.raises(UsageError, match="no dropout"):
        trained(nn.Sequential(nn.Flatten(), nn.Linear(108, CLASSES)), config(dropout=0.1))
