"""The range test of learning rates: where it stops, what it takes, and that batches that differ do not mislead it."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bnretrofit.errors import InputRejectedError
from bnretrofit.training import finetune
from bnretrofit.training.loaders import LoaderSet
from bnretrofit.training.rate_range import find_rate
from tests.library.finetuning_cases import config, samples, with_norms


def test_the_range_test_stops_where_the_loss_rises_and_leaves_the_model() -> None:
    model = with_norms()
    before = copy.deepcopy(model.state_dict())
    found = find_rate(model, LoaderSet(samples(), None), config(), "cpu")
    assert found.risen_at is None or found.chosen < found.risen_at == found.rates[-1]
    assert list(found.rates) == sorted(found.rates)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert f"chosen: {found.chosen:.2g}" in str(found)
    assert finetune(model, samples(), samples(), config(lr=found.chosen)).epochs


def test_the_range_test_keeps_no_average() -> None:
    averaged = config(ema_decay=0.9, ema_warmup=True)
    plain = find_rate(with_norms(), LoaderSet(samples(), None), config(), "cpu")
    assert find_rate(with_norms(), LoaderSet(samples(), None), averaged, "cpu") == plain


def noisy() -> tuple[nn.Module, Tensor, Tensor]:
    """A network that has learnt what it could of classes that overlap, and its samples."""
    torch.manual_seed(0)
    labels = torch.randint(0, 10, (2048,))
    x = torch.randn(10, 48)[labels] * 0.45 + torch.randn(2048, 48)
    model = nn.Sequential(nn.Linear(48, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(8):
        for chosen in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[chosen]), labels[chosen]).backward()
            optimizer.step()
    return nn.Sequential(nn.Flatten(), *model).eval(), x.view(-1, 3, 4, 4), labels


def test_batches_that_differ_much_are_not_taken_for_a_loss_that_rises() -> None:
    model, x, labels = noisy()
    rates = []
    for seed in range(8):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        batches = [(x[chosen], labels[chosen]) for chosen in order.split(32)]
        with torch.no_grad():
            losses = torch.stack([functional.cross_entropy(model(images), known) for images, known in batches])
        # One batch's loss is often a quarter above another's.
        assert float(losses.std() / losses.mean()) > 0.2
        rates.append(find_rate(model, LoaderSet(batches, None), config(bn_stats="batch"), "cpu").chosen)
    assert min(rates) > 1e-3
    assert max(rates) < 0.1


def test_a_loss_that_is_not_finite_from_the_beginning_is_no_rate() -> None:
    model = with_norms()
    with torch.no_grad():
        next(model.parameters())[0] = float("nan")
    with pytest.raises(InputRejectedError, match="no learning rate can be found: the loss rises at 1e-09 already"):
        find_rate(model, LoaderSet(samples(), None), config(bn_stats="frozen"), "cpu")
