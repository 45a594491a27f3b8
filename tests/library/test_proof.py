"""What two captured graphs prove: equal models are proved, models that differ in anything are not."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import retrofit
from bnretrofit.capture import capture
from bnretrofit.proof import GraphComparison, compare_graphs, prove
from tests.library.networks import (
    CalledTwice,
    Concatenated,
    Functional,
    Residual,
    Tokens,
    chain,
    conv_then,
    images,
    input_of,
    with_own_norms,
)
from tests.library.observing import part, randomised, run


def proof(a: nn.Module, b: nn.Module, x: Any) -> GraphComparison:
    return prove(capture(a, x), capture(b, x))


MODELS: list[tuple[Callable[[], nn.Module], Callable[..., Tensor]]] = [
    (chain, images),
    (Residual, images),
    (Concatenated, images),
    (CalledTwice, images),
    (Functional, lambda n=2: torch.randn(n, 4)),
    (with_own_norms, images),
    (Tokens, lambda n=2: torch.randn(n, 5, 4)),
    (lambda: nn.LSTM(3, 4, batch_first=True), lambda n=2: torch.randn(n, 5, 3)),
]


@pytest.mark.parametrize(("build", "draw"), MODELS)
def test_a_model_is_proved_equal_to_its_copy_and_to_its_retrofit(build: Any, draw: Any) -> None:
    model = build().eval()
    for other in (copy.deepcopy(model), retrofit(model, [draw(8)])):
        found = proof(model, other, draw())
        assert found.same_operators, found.difference
        assert found.same_tensors
        assert found.difference is None
        assert proof(other, model, draw()).same_tensors


@pytest.mark.parametrize(("build", "draw"), MODELS)
def test_no_tensor_can_change_by_an_ulp_unseen(build: Any, draw: Any) -> None:
    model = build().eval()
    graph = capture(model, draw())
    names = [name for name, tensor in model.named_parameters() if graph.uses(tensor)]
    assert names
    for name in names:
        other = copy.deepcopy(model)
        tensor = other.get_parameter(name)
        with torch.no_grad():
            tensor.view(-1)[-1] = torch.nextafter(tensor.view(-1)[-1], torch.tensor(9.0))
        found = prove(graph, capture(other, draw()))
        assert found.same_operators
        assert not found.same_tensors
        assert found.difference is not None
        assert name.rpartition(".")[2] in found.difference
        assert found.tensor_error > 0


class Recurrent(nn.Module):
    """Two recurrent layers, called as one that trains or not, whatever mode the module is in."""

    def __init__(self, *, train: bool, dropout: float) -> None:
        super().__init__()
        self.layers = nn.GRU(3, 4, num_layers=2, batch_first=True)
        self.train_flag, self.dropout = train, dropout

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.new_zeros(2, x.shape[0], 4)
        weights: list[Tensor] = list(self.layers.parameters())
        return torch.gru(x, hidden, weights, True, 2, self.dropout, self.train_flag, False, True)[0]


@pytest.mark.parametrize(("train", "dropout"), [(False, 0.5), (True, 0.0), (True, 0.5)])
def test_recurrent_layers_are_random_only_with_dropout_in_training(*, train: bool, dropout: float) -> None:
    model = Recurrent(train=train, dropout=dropout).eval()
    found = proof(model, copy.deepcopy(model), torch.randn(2, 5, 3))
    draws = train and dropout > 0
    assert found.same_tensors is not draws
    assert (found.difference or "").endswith("draws random numbers") is draws


def conv(**options: Any) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(4, 4, 3, **{"padding": 1, **options}), nn.ReLU())


class Says(nn.Module):
    """A conv, and what a function says."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], channels: int = 4) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.dropout = nn.Conv2d(channels, channels, 3, padding=1), nn.Dropout(0.5)
        self.says = forward

    def forward(self, x: Tensor) -> Any:
        return self.says(self, x)


DIFFERENT: list[tuple[nn.Module, nn.Module]] = [
    (conv(), conv(padding=2, dilation=2)),
    (conv(), conv(padding_mode="circular")),
    (conv(padding_mode="reflect"), conv(padding_mode="replicate")),
    (conv(), nn.Sequential(part(conv(), "0"), nn.ReLU6())),
    (nn.Sequential(conv(), nn.LeakyReLU(0.1)), nn.Sequential(conv(), nn.LeakyReLU(0.2))),
    (nn.Sequential(conv(), nn.MaxPool2d(2)), nn.Sequential(conv(), nn.AvgPool2d(2))),
    (nn.Sequential(conv(), nn.ReLU()), conv()),
    (Says(lambda m, x: m.conv(x) + x), Says(lambda m, x: m.conv(x) - x)),
    (Says(lambda m, x: m.conv(x) - x), Says(lambda m, x: x - m.conv(x))),
    (Says(lambda m, x: m.conv(x) + x), Says(lambda m, x: m.conv(x) + m.conv(x))),
    (Says(lambda m, x: m.conv(x)), Says(lambda m, x: m.conv(m.conv(x)))),
    (Says(lambda m, x: (m.conv(x), x)), Says(lambda m, x: (x, m.conv(x)))),
    (Says(lambda m, x: m.conv(x)), Says(lambda m, x: m.conv(x)[:, [0, 1, 3, 2]])),
    (Says(lambda m, x: m.conv(x) * torch.tensor(2.0)), Says(lambda m, x: m.conv(x) * torch.tensor(3.0))),
    (Says(lambda m, x: m.conv(x) * 2.0), Says(lambda m, x: m.conv(x) * 3.0)),
    (Says(lambda m, x: m.dropout(m.conv(x))), Says(lambda m, x: nn.functional.dropout(m.conv(x)))),
]


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_equal_tensors_alone_prove_nothing(a: nn.Module, b: nn.Module) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    for found in (proof(a, b, images(channels=4)), proof(b, a, images(channels=4))):
        assert not found.same_tensors
        assert found.difference
    assert not compare_graphs(capture(a, images(channels=4)), capture(b, images(channels=4))).same_tensors


def test_a_norm_that_is_not_the_identity_is_not_dropped_but_absorbed() -> None:
    torch.manual_seed(1)
    model = randomised(conv_then("Conv2d", 2, norm=True))
    plain, x = copy.deepcopy(model), input_of("Conv2d")
    part(plain, "0").load_state_dict(_folded_by_hand(model))
    part(plain, "1").load_state_dict(nn.BatchNorm2d(6).state_dict())
    assert not proof(model, plain, x).same_tensors
    # A fresh norm scales by 1 / sqrt(1 + eps).
    found = compare_graphs(capture(model, x), capture(plain, x))
    assert found.same_operators
    assert 1e-6 < found.tensor_error < 1e-5


def _folded_by_hand(model: nn.Module) -> dict[str, Tensor]:
    layer, norm = part(model, "0"), part(model, "1")
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    bias = (layer.bias.detach() - norm.running_mean) * scale + norm.bias.detach()
    return {"weight": layer.weight.detach() * scale.view(-1, 1, 1, 1), "bias": bias}


def test_a_norm_in_bfloat16_is_not_proved_by_what_rounding_hides() -> None:
    # Its factor is 1.003, which is 1 to the nearest bfloat16, but 1.992 * 1.003 is not 1.992.
    class Plain(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.conv, self.norm = nn.Conv2d(4, 4, 1, dtype=torch.bfloat16), norm

        def forward(self, x: Tensor) -> Any:
            return self.norm(self.conv(x))

    norm = nn.BatchNorm2d(4, eps=2e-3, dtype=torch.bfloat16).eval()
    norm.running_var.fill_(0.9921875)  # type: ignore[union-attr]
    x = images(64, 4).bfloat16()
    a, b = Plain(norm).eval(), Plain(nn.Identity()).eval()
    assert not torch.equal(run(a, x), run(b, x))
    assert not proof(a, b, x).same_tensors
