"""For every network with norms of its own: folding keeps the function; and the law sees bugs that are planted."""

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bnretrofit import absorbing, fold, verify
from bnretrofit.affine import Affine
from bnretrofit.errors import InputRejectedError, VerificationError
from tests.laws.generated import Network, networks
from tests.library.observing import norms_of, observed, planned, run, same, storages


def check_fold(network: Network, *, allow_new_layers: bool) -> None:
    """Fold a network in float64, and hold it against the network."""
    model = network.build().double()
    before = observed(model)
    x = network.draw(5, seed=1).double()
    plan = planned(model, x, allow_new_layers=allow_new_layers)
    folded = fold(model, x, allow_new_layers=allow_new_layers)
    assert same(before, observed(model))
    assert not storages(model) & storages(folded)
    assert len(list(norms_of(folded))) == len(plan.leaves) == len(list(norms_of(model))) - len(plan.folds)
    wanted = run(model, x)
    torch.testing.assert_close(run(folded, x), wanted, rtol=0, atol=1e-12 * float(wanted.abs().max()))


@settings(max_examples=60)
@given(network=networks(norms=True), allow_new_layers=st.booleans())
def test_folding_preserves_the_function(network: Network, allow_new_layers: bool) -> None:
    check_fold(network, allow_new_layers=allow_new_layers)


@settings(max_examples=50)
@given(network=networks(norms=True))
def test_a_float32_fold_passes_verification(network: Network) -> None:
    model = network.build()
    report = verify(model, fold(model, network.draw(2)), [network.draw(4, seed=1)])
    assert report.passed, report.reason


def without_groups(weight: torch.Tensor, change: Affine | None, *maps: Any, **options: Any) -> torch.Tensor:
    """The scale along the first dimension, or the second if it fits: no thought of groups."""
    if change is None:
        return REAL_WEIGHT(weight, change, *maps, **options)
    scale, channels = change.scale, change.scale.numel()
    if weight.shape[0] == channels:
        return (weight * scale.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype)
    repeated = scale.repeat(-(-weight.shape[1] // channels) or 1)[: weight.shape[1]]
    return (weight * repeated.view(1, -1, *[1] * (weight.dim() - 2))).to(weight.dtype)


def without_the_old_bias(weight: Any, bias: Any, *maps: Any, **options: Any) -> Any:
    """`absorb` as it would be if the layer's own bias were forgotten."""
    new_weight, new_bias = REAL(weight, None if bias is None else torch.zeros_like(bias), *maps, **options)
    return new_weight, new_bias


def only_the_shift(_bias: Any, change: Affine) -> torch.Tensor:
    """absorbed_bias with the same bug."""
    return change.shift.clone()


def without_the_shift(*_: Any, **__: Any) -> None:
    """shifted_bias as if what a norm before the layer adds were forgotten."""


REAL, REAL_WEIGHT = absorbing.absorb, absorbing.absorbed_weight

# Planted in the checker too, it sees nothing: the law does.
PLANTED: dict[str, dict[str, Any]] = {
    "groups": {"absorbing.absorbed_weight": without_groups},
    "bias": {"folding.absorb": without_the_old_bias},
    "bias, also in the checker": {"folding.absorb": without_the_old_bias, "effective.absorbed_bias": only_the_shift},
    "shift": {"absorbing.shifted_bias": without_the_shift},
    "shift, also in the checker": {
        "absorbing.shifted_bias": without_the_shift,
        "effective.shifted_bias": without_the_shift,
    },
}


@pytest.mark.parametrize("bug", PLANTED)
def test_the_law_sees_a_planted_bug(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    for target, planted in PLANTED[bug].items():
        monkeypatch.setattr(f"bnretrofit.{target}", planted)

    @settings(max_examples=100, phases=[Phase.generate], derandomize=True, database=None)
    @given(network=networks(norms=True))
    def law(network: Network) -> None:
        check_fold(network, allow_new_layers=False)

    with pytest.raises((AssertionError, VerificationError, InputRejectedError, ExceptionGroup)):
        law()
