"""The model without norms: against a float64 run, keys and positions, and what is refused."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from bnretrofit import fold, make_fold_plan, retrofit
from bnretrofit.errors import InputRejectedError
from bnretrofit.norms import ChannelsLastBatchNorm1d
from bnretrofit.standing import Normed
from tests.library.networks import (
    CONVS,
    CalledTwice,
    Residual,
    Tokens,
    TwoNorms,
    chain,
    conv_then,
    images,
    input_of,
    with_own_norms,
)
from tests.library.observing import equal_states, norms_of, observed, part, randomised, run, same, storages


def error(model: nn.Module, reference: nn.Module, x: torch.Tensor) -> float:
    """Largest error of a model, relative to the largest output of the reference in float64."""
    wanted = run(copy.deepcopy(reference).double(), x.double())
    return float((run(model, x).double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", CONVS)
def test_every_convolution_takes_its_norm(kind: str, groups: int, bias: bool) -> None:
    model = randomised(conv_then(kind, groups, bias=bias, norm=True))
    x = input_of(kind, 4)
    found = fold(model, x)
    assert not list(norms_of(found))
    assert error(found, model, x) < 1e-6
    model, x = model.double(), x.double()
    assert error(fold(model, x), model, x) < 1e-14


@pytest.mark.parametrize("shape", [(16, 4), (4, 5, 4), (2, 3, 5, 4)])
def test_every_dense_layer_takes_its_norm(shape: tuple[int, ...]) -> None:
    norm = nn.BatchNorm1d(6) if len(shape) == 2 else ChannelsLastBatchNorm1d(6)
    model = randomised(nn.Sequential(nn.Linear(4, 6, bias=False), norm, nn.ReLU(), nn.Linear(6, 2)))
    found = fold(model, torch.randn(shape))
    assert not list(norms_of(found))
    assert error(found, model, torch.randn(shape)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_other_dtypes_are_rounded_once(dtype: torch.dtype) -> None:
    model = randomised(conv_then("Conv2d", norm=True).to(dtype))
    norm, weight = part(model, "1"), part(model, "0").weight
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    found = part(fold(model, input_of("Conv2d").to(dtype)), "0")
    assert torch.equal(found.weight, (weight.double() * scale.view(-1, 1, 1, 1)).to(dtype))
    assert found.bias.dtype == dtype


@pytest.mark.parametrize(
    ("build", "draw"),
    [(chain, images), (Residual, images), (CalledTwice, images), (Tokens, lambda n=2: torch.randn(n, 5, 4))],
)
def test_folding_what_was_inserted_gives_back_the_original(build: Any, draw: Any) -> None:
    model = build().eval()
    found = fold(retrofit(model, [draw(16)]), draw())
    assert equal_states(found, model)
    assert [(name, type(module)) for name, module in found.named_modules()] == [
        (name, type(module)) for name, module in model.named_modules()
    ]
    x = draw(5)
    assert torch.equal(run(found, x), run(model, x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_it_does_so_in_other_dtypes(dtype: torch.dtype) -> None:
    model = chain().to(dtype).eval()
    assert equal_states(fold(retrofit(model, [images(8).to(dtype)]), images().to(dtype)), model)


def test_what_fine_tuning_moved_is_folded_and_the_rest_keeps_its_bits() -> None:
    model = chain().eval()
    tuned = retrofit(model, [images(16)])
    with torch.no_grad():
        part(tuned, "0.norm").weight[2] *= 1.5
        part(tuned, "0.norm").bias[4] += 0.25
    found = fold(tuned, images())
    x = images(5)
    torch.testing.assert_close(run(found, x), run(tuned, x), rtol=1e-5, atol=1e-6)
    moved = torch.tensor([channel in (2, 4) for channel in range(6)])
    weight, original = part(found, "0").weight, part(model, "0").weight
    assert torch.equal(weight[~moved], original[~moved])
    torch.testing.assert_close(weight[2], original[2] * 1.5, rtol=1e-6, atol=0)
    assert equal_states(part(found, "4"), part(model, "4"))


def test_the_argument_is_left_alone_and_shares_no_memory() -> None:
    model = randomised(with_own_norms())
    part(model, "3").weight.requires_grad_(False)
    part(model, "6").register_forward_hook(lambda *_: None)
    before = observed(model)
    found = fold(model, images())
    assert same(before, observed(model))
    assert not storages(model) & storages(found)
    assert not part(found, "3").weight.requires_grad
    assert part(found, "8").weight.requires_grad
    assert part(found, "0").bias.requires_grad
    assert len(part(found, "6")._forward_hooks) == 1


def test_a_network_s_own_norms_become_identities_in_their_places() -> None:
    model: Any = randomised(with_own_norms())
    found: Any = fold(model, images())
    assert len(found) == len(model)
    assert [type(found[i]) for i in (1, 4)] == [nn.Identity, nn.Identity]
    assert set(found.state_dict()) == {f"{i}.{leaf}" for i in (0, 3, 8) for leaf in ("weight", "bias")}
    assert error(found, model, images(8)) < 1e-6


def test_inserted_norms_fold_first_and_the_network_s_own_after_them() -> None:
    own = nn.Sequential(with_own_norms()[:3], nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    model = randomised(own)
    once = fold(retrofit(model, [images(8)]), images())
    assert equal_states(once, model)
    twice = fold(once, images())
    assert not list(norms_of(twice))
    assert error(twice, model, images(4)) < 1e-6


def test_a_layer_without_bias_gains_one_unless_its_twin_has_no_place_for_it() -> None:
    def built(*, norm: bool) -> nn.Sequential:
        return conv_then("Conv2d", bias=False, norm=norm)

    model = randomised(built(norm=True))
    assert "0.bias" in fold(model, input_of("Conv2d")).state_dict()
    with pytest.raises(
        InputRejectedError, match=r"0.weight: .*the model has '0.weight' \(6, 4, 3, 3\), '0.bias' \(6,\)"
    ):
        fold(model, input_of("Conv2d"), like=built(norm=False))
    with torch.no_grad():
        part(model, "1").bias.zero_()
        part(model, "1").running_mean.zero_()
    assert "0.bias" not in fold(model, input_of("Conv2d")).state_dict()
    assert "0.bias" not in fold(model, input_of("Conv2d"), like=built(norm=False)).state_dict()


def test_a_fold_explosion_is_refused_unless_forced() -> None:
    model = randomised(with_own_norms())
    with torch.no_grad():
        part(model, "4").running_var[3] = 1e-6
        part(model, "4").weight[3] = 7.0
    assert make_fold_plan(model, images()).folds[1].scale_max > 2000
    with pytest.raises(InputRejectedError, match=r"^4: the norm scales a channel by 2111, beyond the limit of 1000"):
        fold(model, images())
    assert error(fold(model, images(), force=True), model, images(4)) < 1e-6


def test_what_cannot_be_folded_stays_and_works() -> None:
    model = randomised(TwoNorms())
    found = fold(model, images())
    x = images(4)
    assert len(list(norms_of(found))) == 2
    assert torch.equal(run(found, x), run(model, x))


def test_a_model_in_training_mode_keeps_its_norms_and_its_mode() -> None:
    model = with_own_norms().train()
    found = fold(model, images())
    assert len(list(norms_of(found))) == 2
    assert {module.training for module in found.modules()} == {True}


def test_a_norm_that_stands_in_several_places_goes_from_all() -> None:
    x = torch.randn(2, 4, 8, 8)
    plain = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()).eval()
    model: Any = retrofit(plain, [x])
    model[2].norm = model[0].norm
    folded = fold(model, x)
    assert not list(norms_of(folded))
    assert torch.equal(folded(x), plain(x))


def test_a_layer_and_its_norm_that_are_called_at_two_places_are_folded_once() -> None:
    x = torch.randn(2, 4, 8, 8)
    normed: Any = Normed(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    normed.norm.running_mean.normal_()
    normed.norm.weight.data.uniform_(0.5, 2.0)
    model = nn.Sequential(normed, nn.ReLU(), Normed(normed.layer, normed.norm)).eval()
    wanted = model(x)
    folded = fold(model, x)
    assert not list(norms_of(folded))
    assert type(part(folded, "0")) is type(part(folded, "2")) is nn.Conv2d
    assert torch.allclose(folded(x), wanted, rtol=1e-4, atol=1e-5)
