"""Norms that networks have of their own, in the makes of torch, torchvision and timm."""

from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from bnretrofit import fold, make_fold_plan, make_plan, retrofit, verify
from bnretrofit.capture import capture, op_of
from tests.library.networks import images
from tests.library.observing import equal_states, norms_of, observed, part, run, same

MAKES: dict[str, Any] = {
    "BatchNorm2d": nn.BatchNorm2d,
    "without affine": lambda size: nn.BatchNorm2d(size, affine=False),
    "SyncBatchNorm": nn.SyncBatchNorm,
    "BatchNormAct2d": BatchNormAct2d,
    "with PReLU": lambda size: BatchNormAct2d(size, act_layer=nn.PReLU),
    "without activation": lambda size: BatchNormAct2d(size, apply_act=False),
    "SyncBatchNormAct": lambda size: _sync(BatchNormAct2d(size)),
    "FrozenBatchNorm2d": FrozenBatchNorm2d,
    "FrozenBatchNormAct2d": FrozenBatchNormAct2d,
}


def _sync(norm: Any) -> nn.Module:
    made: Any = SyncBatchNormAct(norm.num_features)
    made.act, made.drop = norm.act, norm.drop
    return made  # type: ignore[no-any-return]


def network(make: str) -> nn.Module:
    """A conv and a norm of that make, with statistics that do something, and a layer after them."""
    norm = MAKES[make](6)
    for name, tensor in [*norm.named_buffers(), *norm.named_parameters(recurse=False)]:
        if tensor.dim():
            with torch.no_grad():
                tensor.uniform_(0.4, 2.0) if "var" in name else tensor.normal_()
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), norm, nn.Conv2d(6, 4, 3)).eval()


@pytest.mark.parametrize("make", MAKES)
def test_every_make_of_norm_folds_into_the_layer_before_it(make: str) -> None:
    model, x = network(make).double(), images(4).double()
    before = observed(model)
    assert make_fold_plan(model, x).leaves == ()
    folded = fold(model, x)
    assert same(before, observed(model))
    assert not list(norms_of(folded))
    torch.testing.assert_close(run(folded, x), run(model, x), rtol=1e-12, atol=1e-12)
    assert verify(model, folded, [x]).passed


def test_an_activation_inside_a_norm_keeps_its_key() -> None:
    folded = fold(network("with PReLU"), images())
    assert [name for name in folded.state_dict() if name.startswith("1.")] == ["1.act.weight"]


@pytest.mark.parametrize("make", MAKES)
def test_a_layer_before_any_make_of_norm_gets_no_other(make: str) -> None:
    plan = make_plan(network(make), images())
    assert [site.name for site in plan.sites] == []
    assert "already normalises its output" in plan.skips[0].reason


@pytest.mark.parametrize("make", MAKES)
def test_a_network_with_norms_of_its_own_is_retrofitted_and_comes_back(make: str) -> None:
    model = nn.Sequential(network(make), nn.Flatten(), nn.Linear(4 * 36, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    result = retrofit(model, [images(8)])
    x = images(4)
    assert torch.equal(run(result, x), run(model, x))
    assert verify(model, result, [x]).proved
    assert equal_states(fold(result, x), model)


def test_a_frozen_norm_in_training_mode_is_still_frozen() -> None:
    model, x = network("FrozenBatchNorm2d").train(), images()
    assert [found.norm for found in make_fold_plan(model, x).folds] == ["1"]


def test_a_frozen_norm_and_a_stock_one_are_close_but_not_proved_equal() -> None:
    frozen, stock = network("FrozenBatchNorm2d"), network("BatchNorm2d")
    stock.load_state_dict({**frozen.state_dict(), "1.num_batches_tracked": torch.tensor(0)})
    report = verify(frozen, stock, [images()])
    assert report.passed
    assert not report.proved
    part(stock, "1").eps = 0.1
    assert not verify(frozen, stock, [images()]).passed


class AlmostFrozen(FrozenBatchNorm2d):  # type: ignore[misc]
    """Does a little more than its parent."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = super().forward(x) * 2
        return result


def test_arithmetic_that_only_looks_like_a_frozen_norm_is_left_as_it_is() -> None:
    class Otherwise(nn.Module):
        running_mean: Tensor
        running_var: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.rand(4)), nn.Parameter(torch.rand(4))
            self.register_buffer("running_mean", torch.rand(4))
            self.register_buffer("running_var", torch.rand(4))

        def forward(self, x: Tensor) -> Any:
            scale = self.weight.reshape(1, -1, 1, 1) * (self.running_var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
            # The mean where the bias should be.
            shift = self.running_mean.reshape(1, -1, 1, 1) - self.bias.reshape(1, -1, 1, 1) * scale
            return x * scale + shift

    graph = capture(nn.Sequential(nn.Conv2d(3, 4, 1), Otherwise()), images())
    assert not [node for node in graph.nodes if op_of(node).startswith("aten.batch_norm.")]


def test_a_subclass_of_a_frozen_norm_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), AlmostFrozen(6)).eval()
    (left,) = make_fold_plan(model, images()).leaves
    assert "may do more than normalise" in left.reason
