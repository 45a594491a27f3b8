"""Which parameters fine-tuning moves, which of them decay, and what it does with dropout."""

from typing import Any

import pytest
import torch
from timm.layers import FrozenBatchNormAct2d
from torch import Tensor, nn

from bnretrofit import retrofit
from bnretrofit.errors import UsageError
from bnretrofit.training.memory_keeper import MemoryKeeper
from bnretrofit.training.parameters import trained_parameters
from bnretrofit.training.preparation import _dropout_set
from tests.library.finetuning_cases import CLASSES, config, network, samples, trained, with_norms


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


def test_norms_of_other_kinds_do_not_decay_either() -> None:
    layers = (nn.Conv2d(3, 4, 1), nn.LayerNorm([4, 8, 8]), nn.GroupNorm(2, 4), nn.RMSNorm([8, 8]), nn.InstanceNorm2d(4))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 3)).eval()
    found = trained_parameters(model, torch.randn(2, 3, 8, 8), "all", batch_statistics=True)
    assert sorted(found.decayed) == ["0.weight", "6.weight"]


def test_what_a_model_names_does_not_decay() -> None:
    class Named(nn.Sequential):
        def no_weight_decay(self) -> set[str]:
            return {"9.weight"}

    model = Named(*with_norms().children())
    found = trained_parameters(model.eval(), samples()[0][0], "all", batch_statistics=True)
    assert "9.weight" in found.undecayed
    assert "0.layer.weight" in found.decayed


def test_what_is_to_be_trained_and_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to train with 'bn': the network has no norms"):
        trained(network(), config(train="bn+head"))

    class Scaled(nn.Sequential):
        def __init__(self, *layers: nn.Module) -> None:
            super().__init__(*layers)
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
            for layer in self:
                input = layer(input)  # noqa: A001 - as torch's own does it
            return input * self.scale

    for choice in ("head", "bn+head"):
        with pytest.raises(UsageError, match="nothing to train with 'head': no layer of its own"):
            trained(Scaled(*with_norms().children()), config(train=choice))
    held = with_norms()
    for name, parameter in held.named_parameters():
        parameter.requires_grad_(".norm." not in name)
    with pytest.raises(UsageError, match="nothing to train with 'bn': no such parameter requires a gradient"):
        trained(held, config(train="bn+head"))


def test_a_head_with_a_norm_behind_it_is_one() -> None:
    example = samples()[0][0]
    model = retrofit(network(), [example], include=["*", "9"])
    found = trained_parameters(model.eval(), example, "head", batch_statistics=False)
    assert set(found.named()) == {"9.layer.weight", "9.layer.bias"}


def biases(norm: nn.Module, *, batch_statistics: bool, train: str = "all") -> set[str]:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES)).eval()
    found = trained_parameters(model, samples()[0][0], train, batch_statistics=batch_statistics)
    assert set(found.redundant) == {"0.bias"} - found.named().keys()
    return found.named().keys() & {"0.bias", "1.bias"}


def test_a_bias_before_a_norm_is_left_out_where_something_says_the_same() -> None:
    assert biases(nn.BatchNorm2d(4), batch_statistics=True) == {"1.bias"}
    assert biases(nn.BatchNorm2d(4), batch_statistics=False) == {"1.bias"}
    assert biases(nn.BatchNorm2d(4, affine=False), batch_statistics=True) == set()
    # With running statistics it shifts the output, and no norm's bias does.
    assert biases(nn.BatchNorm2d(4, affine=False), batch_statistics=False) == {"0.bias"}
    held = nn.BatchNorm2d(4)
    assert held.bias is not None
    held.bias.requires_grad_(False)
    assert biases(held, batch_statistics=False) == {"0.bias"}
    frozen = FrozenBatchNormAct2d(4)
    assert biases(frozen, batch_statistics=True) == {"0.bias"}


def test_a_bias_before_a_norm_of_the_network_s_own_is_left_out_beside_inserted_ones() -> None:
    torch.manual_seed(0)
    own = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16, CLASSES)),
    ).eval()
    example = samples()[0][0]
    found = trained_parameters(retrofit(own, [example]).eval(), example, "all", batch_statistics=True)
    assert found.redundant == ("0.bias", "3.layer.bias")


def test_dropout_is_set_for_the_run_alone() -> None:
    model: Any = with_norms()
    seen: list[float] = []
    model[8].register_forward_hook(lambda dropout, _inputs, _output: seen.append(dropout.p))
    trained(model, config(epochs=1, dropout=0.1))
    assert 0.1 in seen
    assert model[8].p == 0.3
    with pytest.raises(UsageError, match="no dropout"):
        trained(nn.Sequential(nn.Flatten(), nn.Linear(108, CLASSES)), config(dropout=0.1))


def test_dropout_of_attention_is_set_too() -> None:
    layer = nn.TransformerEncoderLayer(12, 2, dropout=0.3, batch_first=True)
    with _dropout_set(layer, 0.1):
        assert {layer.dropout.p, layer.dropout1.p, layer.self_attn.dropout} == {0.1}
    assert {layer.dropout.p, layer.dropout1.p, layer.self_attn.dropout} == {0.3}
