"""Fine-tuning networks of unusual makes: norms and heads of their own, shared tensors, caches."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit.errors import UsageError
from bnretrofit.norms import foreign_norms, running_norms
from bnretrofit.training import TrainingConfig, finetune_on
from bnretrofit.training.averaging import average_of, update_average
from bnretrofit.training.loaders import LoaderSet
from bnretrofit.training.results import Results
from tests.library.finetuning_cases import config, network, samples, with_norms


class Named(nn.BatchNorm2d):
    """A stock norm under a name of its own."""


class Scaled(nn.BatchNorm2d):
    """A norm that does more than normalise."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Module's own name for it
        return 2 * super().forward(input)


def with_norm(kind: type[nn.BatchNorm2d]) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), kind(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    ).eval()


def trained(model: nn.Module, settings: TrainingConfig, told: list[str] | None = None, *, val: bool = True) -> Results:
    data = LoaderSet(samples(), samples() if val else None)
    return finetune_on(model, data, settings, device="cpu", tell=None if told is None else told.append)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, Named, Scaled])
def test_frozen_statistics_stay_whatever_class_a_norm_is_of(kind: type[nn.BatchNorm2d]) -> None:
    model: Any = with_norm(kind)
    mean, weight = model[1].running_mean.clone(), model[1].weight.clone()
    trained(model, config(bn_stats="frozen", epochs=1))
    assert torch.equal(model[1].running_mean, mean)
    assert int(model[1].num_batches_tracked) == 0
    assert not torch.equal(model[1].weight, weight)


def test_a_subclass_that_changes_nothing_is_trained_as_the_stock_norm_is() -> None:
    stock, named = with_norm(nn.BatchNorm2d), with_norm(Named)
    settings = config(bn_momentum=0.5)
    one, other = (trained(model, settings).last.variance_ratios for model in (stock, named))
    assert one is not None
    assert other == pytest.approx(one, rel=1e-4)
    for name, tensor in stock.state_dict().items():
        # The conv's bias is left out for the stock norm alone, and has but what rounding leaves of a gradient of zero.
        torch.testing.assert_close(named.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_a_norm_that_computes_in_a_way_of_its_own_is_named() -> None:
    model, told = with_norm(Scaled), list[str]()
    assert (list(running_norms(model)), list(foreign_norms(model))) == ([], ["1"])
    done = trained(model, config(epochs=1), told)
    assert any("'1' is a Scaled, which computes in a way of its own" in text for text in told)
    assert done.last.variance_ratios is None


class ByKeyword(nn.Module):
    """Calls its norm with a named argument, as one may."""

    def __init__(self, *, named: bool) -> None:
        super().__init__()
        self.body, self.named = with_norm(nn.BatchNorm2d), named

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, *rest = self.body
        x = norm(input=conv(x)) if self.named else norm(conv(x))
        for module in rest:
            x = module(x)
        return x


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_norm_may_be_called_by_keyword(accumulate: int) -> None:
    settings = config(epochs=1, grad_accum_steps=accumulate)
    assert trained(ByKeyword(named=True), settings) == trained(ByKeyword(named=False), settings)


class Positions(nn.Module):
    """Keeps what its first pass has computed, as position grids are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.grid is None:
            self.grid = torch.linspace(0.5, 1.5, x.shape[-1], device=x.device)
        return x * self.grid


def test_what_a_network_keeps_of_its_first_pass_can_be_trained_with() -> None:
    done = trained(nn.Sequential(nn.Conv2d(3, 3, 1), Positions(), *network().children()), config(epochs=1))
    before, after = (epoch.val_loss for epoch in done.history.epochs)
    assert before is not None
    assert after is not None
    assert after < before


class Auxiliary(nn.Module):
    """A head beside the one that gives the logits, and a layer that nothing runs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.beside, self.idle = with_norm(nn.BatchNorm2d), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        self.seen = self.beside(found)
        return found


def test_parameters_that_the_logits_do_not_depend_on_are_named() -> None:
    model, told = Auxiliary(), list[str]()
    trained(model, config(epochs=1), told)
    assert any(text.startswith("4 parameters learn nothing") and "beside.weight" in text for text in told)


class Skipping(nn.Module):
    """A block that training leaves out now and then, as stochastic depth does."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.block = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        if self.training and torch.rand(()) < 0.9:
            return found
        return found.add(self.block(found))


def test_a_block_that_is_left_out_now_and_then_is_trained_and_not_named() -> None:
    first, told = Skipping(), list[str]()
    model = nn.Sequential(first, *network().children()).eval()
    before = first.block.weight.clone()
    state = torch.get_rng_state()
    trained(model, config(epochs=12), told)
    assert not any("learn nothing" in text for text in told)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first.block.weight, before)


class Shared(nn.Module):
    """Two layers of one weight, and a third of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight


def test_shared_weights_are_averaged_once_and_follow_like_all_others() -> None:
    model = Shared()
    average = average_of(model, 0.9, warmup=False)
    before = {name: each.clone() for name, each in average.module.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    update_average(average, model, step=5, seed=0)
    after = average.module.state_dict()
    assert after.keys() == model.state_dict().keys()
    for name, tensor in after.items():
        torch.testing.assert_close(tensor - before[name], torch.full_like(tensor, 0.1), msg=name)


class Held(nn.BatchNorm2d):
    """Frozen the way that many write it: training mode does not reach it."""

    def train(self, mode: bool = True) -> "Held":
        return super().train(False)


def test_a_norm_that_no_mode_reaches_keeps_its_statistics() -> None:
    model: Any = with_norm(Held)
    mean, told = model[1].running_mean.clone(), list[str]()
    trained(model, config(epochs=1), told)
    assert torch.equal(model[1].running_mean, mean)
    assert not any("norms use" in text for text in told)


def test_patience_without_anything_to_wait_for_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to validate with"):
        trained(with_norms(), config(patience=1), val=False)


@pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum'")
@pytest.mark.parametrize("opt", ["adahessian", "kron"])
def test_optimisers_that_cannot_make_or_keep_a_run_are_refused(opt: str) -> None:
    with pytest.raises(UsageError, match=f"optimiser '{opt}'"):
        trained(with_norms(), replace(config(), opt=opt))
