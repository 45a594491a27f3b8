"""Statistics measured again: those of the norm's own input, whatever they were before and however it is batched."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import recalibration, retrofit
from bnretrofit.errors import InputRejectedError
from bnretrofit.norm_statistics import SETTLED
from bnretrofit.norms import ChannelsLastBatchNorm1d
from bnretrofit.recalibration import MANY, recalibrate
from bnretrofit.scales import scales_of
from tests.library.networks import chain, images
from tests.library.observing import norms_of, observed, part, randomised, same


def network() -> nn.Module:
    """Two norms in a row, of which the second depends on the first, and one over tokens."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Flatten(2),
        nn.Linear(16, 6),
        ChannelsLastBatchNorm1d(6),
    )
    return randomised(model)


def inputs_of(model: nn.Module, norm: str, x: Tensor) -> Tensor:
    """What a norm reads."""
    seen: list[Tensor] = []
    handle = part(model, norm).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[0]


def test_every_norm_gets_the_statistics_of_what_it_reads_in_the_result() -> None:
    model, x = network(), images(16)
    before = observed(model)
    found = recalibrate(model, [x[:5], x[5:]])
    assert same(before, observed(model))
    for name, dims in (("1", (0, 2, 3)), ("4", (0, 2, 3)), ("8", (0, 1))):
        read, norm = inputs_of(found.model, name, x).double(), part(found.model, name)
        torch.testing.assert_close(norm.running_mean.double(), read.mean(dims), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(norm.running_var.double(), read.var(dims), rtol=3e-3, atol=1e-6)


def deep(*, variance: float, norms: int = 24) -> nn.Module:
    """A chain of norms that hold a variance other than what they read."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(norms):
        norm = nn.BatchNorm1d(8)
        norm.running_var.fill_(variance)  # type: ignore[union-attr]
        layers += [nn.Linear(8, 8), norm, nn.LeakyReLU(0.3)]
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("variance", [1e-6, 1e4])
def test_errors_that_multiply_from_norm_to_norm_are_caught(variance: float) -> None:
    model, x = deep(variance=variance), torch.randn(64, 8)
    found = recalibrate(model, list(x.split(20)))
    # By passes alone it would take 24, the early ones beyond what float32 holds.
    assert found.passes <= MANY + 2
    for index in range(1, 72, 3):
        read, norm = inputs_of(found.model, str(index), x).double(), part(found.model, str(index))
        torch.testing.assert_close(norm.running_mean.double(), read.mean(0), rtol=3 * SETTLED, atol=3 * SETTLED)
        torch.testing.assert_close(norm.running_var.double(), read.var(0), rtol=3 * SETTLED, atol=1e-6)


def test_where_a_sweep_does_not_fit_in_memory_passes_go_on_or_say_what_was_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("bnretrofit.recalibration.settle", full)
    x = torch.randn(64, 8)
    # It takes as many passes as there are norms then, and no fewer.
    assert recalibrate(deep(variance=1.0, norms=12), [x]).passes > MANY
    with pytest.raises(InputRejectedError, match="overflow"):
        recalibrate(deep(variance=1e-30), [x])


@pytest.mark.parametrize("changes", [[1.0, 2.0, 0.0], [1.0, 2.0, 1.0, 1.0, 1.0, 0.0], [float("inf"), 0.0]])
def test_whatever_a_sweep_leaves_is_measured_once_more(changes: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def measured(*_: object) -> float:
        order.append("pass")
        return changes[order.count("pass") - 1]

    monkeypatch.setattr(recalibration, "_pass", measured)
    monkeypatch.setattr(recalibration, "settle", lambda *_: order.append("sweep"))
    # One norm: two passes are all that it needs, if nothing is called twice.
    found = recalibrate(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval(), [torch.randn(20, 8)])
    assert order.count("sweep") == 1
    assert order[-1] == "pass"
    assert found.passes == order.count("pass")


class Called(nn.Module):
    """One norm, several times in a row: what it reads depends on what it holds."""

    def __init__(self, scale: float, times: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.scale, self.times = scale, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.scale * self.norm(x)
        return x


@pytest.mark.parametrize(("scale", "times"), [(5.0, 2), (300.0, 2), (0.3, 2), (3.0, 3), (1.0, 6)])
def test_a_norm_that_reads_what_it_has_made_settles(scale: float, times: int) -> None:
    torch.manual_seed(0)
    model, x = Called(scale, times).eval(), torch.randn(60, 4) * 3 + 1
    found = recalibrate(model, [x[:25], x[25:]]).model
    norm, seen = part(found, "norm"), list[Tensor]()
    norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        found(x)
    read = torch.cat(seen).double()
    # As `moved` has it: means in standard deviations, scales relative.
    assert ((norm.running_mean - read.mean(0)) / read.std(0)).abs().max() <= 3 * SETTLED
    torch.testing.assert_close(norm.running_var.double(), read.var(0), rtol=6 * SETTLED, atol=0)


def test_statistics_that_do_not_settle_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalibration, "_pass", lambda *_: 0.5)
    with pytest.raises(InputRejectedError, match=r"do not settle: measured again and again, they still move by 0\.5"):
        recalibrate(Called(2.0, 2).eval(), [torch.randn(20, 4)])


def test_the_batching_leaves_no_trace_but_that_of_the_kernels() -> None:
    model, x = network().double(), images(12).double()
    whole, parts = recalibrate(model, [x]), recalibrate(model, list(x.split(5)))
    for a, b in zip(norms_of(whole.model), norms_of(parts.model), strict=True):
        torch.testing.assert_close(a.running_mean, b.running_mean, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(a.running_var, b.running_var, rtol=1e-12, atol=1e-13)


def test_what_is_right_stays_nearly_as_it_is_and_what_lags_is_told() -> None:
    batches = [images(8)]
    model = retrofit(chain(), batches)
    found = recalibrate(model, batches)
    assert found.passes == 1
    assert all(float((ratio - 1).abs().max()) < 1e-4 for ratio in found.ratios.values())
    with torch.no_grad():
        part(model, "4.norm").running_var *= 0.25
    ratio = recalibrate(model, batches).ratios["4.norm"]
    assert float(ratio.max()) < 0.3


def test_a_model_keeps_its_mode_and_its_other_tensors() -> None:
    model = network().train()
    found = recalibrate(model, [images(4)]).model
    assert {module.training for module in found.modules()} == {True}
    statistics = ("running_mean", "running_var")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]) is not name.endswith(statistics)


@pytest.mark.parametrize(
    ("model", "batches", "words"),
    [
        (network(), [], "no batch was given"),
        (chain(), [images()], "has no BatchNorm"),
        (nn.Sequential(nn.BatchNorm2d(3)), [torch.full((2, 3, 4, 4), torch.nan)], "NaN or infinite"),
        (nn.Sequential(nn.BatchNorm2d(3)), [torch.zeros(1, 3, 1, 1)], "one value per channel"),
    ],
)
def test_what_cannot_be_measured_is_refused(model: nn.Module, batches: Any, words: str) -> None:
    with pytest.raises(InputRejectedError, match=words):
        recalibrate(model, batches)


def test_scales_are_those_of_all_channels() -> None:
    norms: dict[str, nn.Module] = {"a": nn.BatchNorm1d(100, eps=0.0), "b": nn.BatchNorm2d(1, eps=0.0)}
    with torch.no_grad():
        part(norms["a"], "").weight.copy_(torch.linspace(0.01, 1.0, 100))
        part(norms["b"], "").weight.fill_(-7.0)
    found = scales_of(norms)
    assert found is not None
    assert (round(found.low, 4), round(found.median, 4), round(found.high, 4)) == (0.02, 0.51, 1.0)
    assert (found.largest, found.norm) == (7.0, "b")
    assert str(found) == "0.02 (1 %), 0.51 (median), 1 (99 %), 7 (largest) at 'b'"
    assert scales_of({}) is None


def test_an_inserted_norm_scales_nothing() -> None:
    model = retrofit(chain(), [images(8)])
    found = scales_of({name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)})
    assert found is not None
    assert found.low == pytest.approx(1.0, abs=1e-6)
    assert found.largest == pytest.approx(1.0, abs=1e-6)
