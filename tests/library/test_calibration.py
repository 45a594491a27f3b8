"""Statistics of every site in one pass, whatever the batching, and nothing changed by it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import ChannelStats, calibrate, make_plan
from bnretrofit.errors import InputRejectedError
from tests.library.networks import CalledTwice, Keywords, Residual, Tokens, chain, images
from tests.library.observing import observed, part, run, same


def reference(model: nn.Module, sites: list[str], batches: list[Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and biased variance of each site's output, from all activations at once in float64."""
    rows: dict[str, list[Tensor]] = {name: [] for name in sites}

    def record(name: str) -> Any:
        dim = -1 if isinstance(part(model, name), nn.Linear) else 1
        return lambda _module, _inputs, y: rows[name].append(y.detach().double().movedim(dim, 0).flatten(1).clone())

    handles = [part(model, name).register_forward_hook(record(name)) for name in sites]
    for batch in batches:
        with torch.no_grad():
            model.eval()(**batch) if isinstance(batch, dict) else model.eval()(batch)
    for handle in handles:
        handle.remove()
    joined = {name: torch.cat(found, 1) for name, found in rows.items()}
    return {name: (found.mean(1), found.var(1, correction=0)) for name, found in joined.items()}


def assert_near(found: dict[str, ChannelStats], wanted: dict[str, tuple[Tensor, Tensor]]) -> None:
    assert found.keys() == wanted.keys()
    for name, (mean, var) in wanted.items():
        torch.testing.assert_close(found[name].mean, mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[name].var, var, rtol=1e-4, atol=1e-9)


MODELS: list[tuple[Any, Any]] = [
    (chain, images),
    (Residual, images),
    (CalledTwice, images),
    (Tokens, lambda n: torch.randn(n, 5, 4)),
    (Tokens, lambda n: torch.randn(n, 3, 2, 4)),
    (Keywords, lambda n: {"image": images(n), "extra": torch.randn(n, 2)}),
]


@pytest.mark.parametrize(("build", "draw"), MODELS)
def test_statistics_are_those_of_all_activations_at_once(build: Any, draw: Any) -> None:
    model, batches = build(), [draw(4), draw(3), draw(1)]
    plan = make_plan(model, batches[0])
    found = calibrate(model, plan, batches)
    assert_near(found, reference(model, [site.name for site in plan.sites], batches))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_activation_in_place_does_not_get_into_the_statistics(dtype: torch.dtype) -> None:
    # After chain()'s in-place ReLUs no mean could be negative.
    model, x = chain().to(dtype), images(16).to(dtype)
    stats = calibrate(model, make_plan(model, x), [x])
    assert all(bool((found.mean < 0).any()) for found in stats.values())


def test_counts_are_elements_per_channel() -> None:
    model = chain()
    stats = calibrate(model, make_plan(model, images()), [images(5), images(2)])
    assert {name: found.count for name, found in stats.items()} == {"0": 7 * 64, "4": 7 * 4, "8": 7}
    twice = CalledTwice()
    assert calibrate(twice, make_plan(twice, images()), [images(3)])["conv"].count == 2 * 3 * 64


def test_the_batching_does_not_matter_beyond_rounding() -> None:
    model, x = chain(), images(12)
    plan = make_plan(model, x)
    whole = calibrate(model, plan, [x])
    for sizes in ([1] * 12, [5, 7], [11, 1]):
        parts = calibrate(model, plan, x.split(sizes))
        for name, found in parts.items():
            assert found.count == whole[name].count
            torch.testing.assert_close(found.mean, whole[name].mean, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(found.var, whole[name].var, rtol=1e-5, atol=0)


def test_statistics_of_a_far_mean_are_those_of_float64() -> None:
    class Far(nn.Module):
        """Makes N(1000, 0.01^2) of N(0, 1), exactly known in float32."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)
            with torch.no_grad():
                self.conv.weight.fill_(0.01)
                self.conv.bias.fill_(1000.0)  # type: ignore[union-attr]

        def forward(self, x: Tensor) -> Any:
            return self.head(self.conv(x).relu())

    model, batches = Far(), [torch.randn(4, 1, 16, 16) for _ in range(3)]
    found = calibrate(model, make_plan(model, batches[0]), batches)["conv"]
    # The conv's own float32 outputs, which hold some 160 different values.
    outputs = torch.cat([run(model.conv, batch) for batch in batches]).double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(found.mean, outputs.mean(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.var, outputs.var(1, correction=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_calibration_leaves_the_model_as_it_was(training: bool) -> None:
    model = chain().train(training)
    part(model, "0").register_forward_hook(lambda *_: None)
    part(model, "0").weight.requires_grad_(False)
    before = observed(model)
    calibrate(model, make_plan(model, images()), [images(4)])
    assert same(before, observed(model))


class StoppedError(Exception):
    """Not one of ours."""


@pytest.mark.parametrize("training", [True, False])
def test_calibration_leaves_the_model_as_it_was_after_an_exception(training: bool) -> None:
    def broken() -> Any:
        yield images(4)
        raise StoppedError

    model = chain().train(training)
    plan = make_plan(model, images())
    before = observed(model)
    with pytest.raises(StoppedError):
        calibrate(model, plan, broken())
    with pytest.raises(InputRejectedError, match="does not take the batch"):
        calibrate(model, plan, [images(4), images(4, channels=2)])
    assert same(before, observed(model))
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_dropout_is_off_and_a_model_s_own_norms_keep_their_statistics() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Dropout(0.9), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU()
    )
    plan, x = make_plan(model, images()), images(6)
    found, again = calibrate(model, plan, [x]), calibrate(model, plan, [x])
    assert found.keys() == {"0", "4"}
    assert torch.equal(found["4"].mean, again["4"].mean)
    assert part(model, "2").num_batches_tracked == 0


def test_no_batch_is_refused() -> None:
    model = chain()
    with pytest.raises(InputRejectedError, match="no batch to calibrate with"):
        calibrate(model, make_plan(model, images()), [])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_activation_that_is_not_finite_is_refused_naming_the_layer(bad: float) -> None:
    model = chain()
    plan = make_plan(model, images())
    x = images(4)
    x[2, 0, 3, 3] = bad
    with pytest.raises(InputRejectedError, match=r"^0: the layer's output is NaN or infinite"):
        calibrate(model, plan, [images(4), x])
    with torch.no_grad():
        part(model, "4").weight[0, 0, 0, 0] = bad
    with pytest.raises(InputRejectedError, match=r"^4: the layer's output is NaN or infinite"):
        calibrate(model, plan, [images(4)])


def test_a_model_that_cannot_run_in_channels_last_is_calibrated_all_the_same() -> None:
    class Viewing(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            return self[1](self[0](x).view(len(x), -1).relu())

    model, x = Viewing(nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 2)), images(3)
    assert_near(calibrate(model, make_plan(model, x), [x, x]), reference(model, ["0"], [x, x]))
