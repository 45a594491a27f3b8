"""Frozen statistics: the function and the gradients of eval-mode norms, in both modes, and nothing left behind."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from bnretrofit import retrofit
from bnretrofit.capture import capture
from bnretrofit.copies import independent_copy
from bnretrofit.errors import InputRejectedError
from bnretrofit.norms import ChannelsLastBatchNorm1d
from bnretrofit.training import absorbed_forward
from bnretrofit.training.frozen_statistics import FrozenStatistics, frozen_statistics
from tests.library.networks import (
    CONVS,
    CalledTwice,
    ReadBesides,
    StandardisedConv,
    Tokens,
    TwoNorms,
    chain,
    conv_then,
    images,
    input_of,
    reparametrised,
    with_own_norms,
)
from tests.library.observing import equal_states, norms_of, observed, part, randomised, same
from tests.library.test_twins import Twin


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output of a model as it is, and the gradients of all its parameters and of its input."""
    x = x.detach().clone().requires_grad_()
    model.zero_grad()
    output = model(x)
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view(output.shape)
    (output * weights).sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    given = {name: grad.clone() for name, grad in found.items() if grad is not None}
    return {"": output.detach(), "x": x.grad.clone() if x.grad is not None else x, **given}


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def in_eval_mode(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    return gradients(independent_copy(model).eval(), x)


WAYS = {"whichever is smaller": None, "the weight": math.inf, "the output": 0.0}


@contextmanager
def scaling(way: str) -> Iterator[None]:
    """Whichever has fewer elements, scale that one."""
    with pytest.MonkeyPatch.context() as patch:
        if WAYS[way] is not None:
            patch.setattr(absorbed_forward, "_output_size", lambda *_: WAYS[way])
        yield


def assert_like_eval_mode(model: nn.Module, x: Tensor) -> FrozenStatistics:
    """Outputs and gradients in both modes under frozen statistics against those of the untouched model in eval mode.

    Returns:
        How each norm ran.
    """
    model, x = without_dropout(randomised(model)).double().train(), x.double()
    wanted, before = in_eval_mode(model, x), observed(model)
    with frozen_statistics(model, x) as found:
        for way in WAYS:
            with scaling(way):
                assert_close(gradients(model.train(), x), wanted, way)
                assert_close(gradients(model.eval(), x), wanted, way)
    assert same(before, observed(model.train()))
    assert not any("forward" in vars(module) for module in model.modules())
    return found


def assert_close(got: dict[str, Tensor], wanted: dict[str, Tensor], way: str) -> None:
    assert list(got) == list(wanted)
    for name, tensor in wanted.items():
        atol = 1e-12 * (1 + float(tensor.abs().max()))
        torch.testing.assert_close(got[name], tensor, rtol=1e-10, atol=atol, msg=f"{name}, scaling {way}")


@pytest.mark.parametrize(("groups", "bias"), [(1, True), (2, False)])
@pytest.mark.parametrize("kind", CONVS)
def test_convolutions_of_all_kinds(kind: str, groups: int, bias: bool) -> None:
    found = assert_like_eval_mode(conv_then(kind, groups, bias=bias, norm=True), input_of(kind))
    assert [(pair.norm, pair.layer) for pair in found.absorbed] == [("1", "0")]


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "kernel_size": 3},
        {"padding": 2, "padding_mode": "circular", "kernel_size": 3},
        {"stride": 2, "dilation": 2, "kernel_size": 2, "groups": 4},
    ],
)
def test_convolutions_with_all_their_options(options: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, **options), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    assert len(assert_like_eval_mode(model, images(2, 4)).absorbed) == 1


class Upsampling(nn.Module):
    """Tells a transposed convolution the size of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.up(input=x, output_size=[2 * x.shape[-2], 2 * x.shape[-1]]))


def test_a_transposed_convolution_told_its_output_size() -> None:
    assert len(assert_like_eval_mode(Upsampling(), images(2, 4, 5)).absorbed) == 1


DENSE: dict[str, Callable[[], nn.Module]] = {
    "(N, C)": lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True)),
    "(N, L, C)": lambda: nn.Sequential(nn.Linear(4, 6), ChannelsLastBatchNorm1d(6), nn.ReLU(inplace=True)),
    "(N, H, W, C)": lambda: nn.Sequential(nn.Linear(4, 6, bias=False), ChannelsLastBatchNorm1d(6)),
}


@pytest.mark.parametrize("shape", DENSE)
def test_dense_layers(shape: str) -> None:
    sizes = {"N": 3, "L": 5, "H": 2, "W": 5, "C": 4}
    x = torch.randn([sizes[letter] for letter in shape if letter in sizes])
    assert len(assert_like_eval_mode(DENSE[shape](), x).absorbed) == 1


MAKES: dict[str, Callable[[], nn.Module]] = {
    "without affine": partial(nn.BatchNorm2d, 4, affine=False),
    "SyncBatchNorm": partial(nn.SyncBatchNorm, 4),
    "with activation": partial(BatchNormAct2d, 4, act_layer=nn.PReLU),
    "frozen": partial(FrozenBatchNorm2d, 4),
}


@pytest.mark.parametrize("make", MAKES)
def test_norms_of_all_makes(make: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), MAKES[make](), nn.Flatten(), nn.Linear(144, 3))
    assert len(assert_like_eval_mode(model, images()).absorbed) == 1


@pytest.mark.parametrize("model", [chain(), CalledTwice(), Tokens()])
def test_retrofitted_networks(model: nn.Module) -> None:
    x = torch.randn(8, 5, 4) if isinstance(model, Tokens) else images(8)
    result = retrofit(model, [x])
    found = assert_like_eval_mode(result, x)
    assert len(found.absorbed) == len(list(norms_of(result))) > 0
    assert found.leaves == ()


def test_a_twin_with_norms_of_its_own_class() -> None:
    found = assert_like_eval_mode(Twin(), images(8))
    assert {pair.norm: pair.layer for pair in found.absorbed} == {
        "features.1": "features.0",
        "features.4": "features.3",
    }


class TwoSizes(nn.Module):
    """One conv and one norm, called with a large and a small image, the norm after both calls of the conv."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Any:
        large, small = self.conv(x), self.conv(x[..., :2, :2])
        return torch.cat([self.norm(small).flatten(1), self.norm(large).flatten(1)], 1)


def test_each_call_scales_whichever_has_fewer_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TwoSizes()
    ways: list[tuple[int, ...]] = []
    original = absorbed_forward._output_normalised

    def noted(output: Tensor, *rest: Any) -> Tensor:
        ways.append(tuple(output.shape))
        return original(output, *rest)

    monkeypatch.setattr(absorbed_forward, "_output_normalised", noted)
    found = assert_like_eval_mode(model, images())
    assert [(pair.norm, pair.layer) for pair in found.absorbed] == [("norm", "conv")]
    # 81 weights; 384 outputs and 24, in both modes. Then none, then all of them.
    assert ways == [(2, 3, 2, 2)] * 2 + [(2, 3, 8, 8), (2, 3, 2, 2)] * 2


class OtherInTraining(nn.Module):
    """What the norm reads is read elsewhere too, but in training mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        return torch.cat([self.norm(x), x]) if self.training else self.norm(x)


class NormInside(nn.Conv2d):
    """A conv that calls its norm itself, and an activation after it."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(super().forward(x)))


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model[0].register_forward_hook(lambda *_: None)
    return model


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "pre-activation": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)),
        "it is the model's own",
    ),
    "after the activation": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        "not a conv or dense layer",
    ),
    "read besides": (ReadBesides, "also read elsewhere"),
    "two norms": (TwoNorms, "not always with this norm"),
    "standardised": (lambda: nn.Sequential(StandardisedConv(3, 4, 3), nn.BatchNorm2d(4)), "changed before it is used"),
    "weight_norm, old": (lambda: reparametrised_then_norm("old"), "re-parametrised"),
    "weight_norm, new": (lambda: reparametrised_then_norm("new"), "re-parametrised"),
    "hooked": (hooked, "hooks"),
    "norm inside": (NormInside, "has modules inside"),
}


def reparametrised_then_norm(way: str) -> nn.Module:
    return nn.Sequential(part(reparametrised(way), "4"), nn.BatchNorm2d(8))


@pytest.mark.parametrize("case", LEFT)
def test_norms_that_no_layer_can_take_run_by_themselves(case: str) -> None:
    build, reason = LEFT[case]
    found = assert_like_eval_mode(build(), images(2, 6 if "weight_norm" in case else 3))
    assert found.absorbed == ()
    assert found.leaves
    for leave in found.leaves:
        assert reason in leave.reason


def test_what_training_mode_alone_shows_is_seen() -> None:
    model, x = randomised(OtherInTraining()).train(), images()
    with frozen_statistics(model, x) as found:
        got = model(x)
    assert "also read elsewhere" in found.leaves[0].reason
    raw = part(model, "conv")(x)
    torch.testing.assert_close(got, torch.cat([part(model, "norm").eval()(raw), raw]))


class HiddenInTraining(OtherInTraining):
    """The same in an autocast region, which the graph holds as one call."""

    def forward(self, x: Tensor) -> Any:
        if not self.training:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x)


def test_what_training_mode_hides_is_not_taken_for_granted() -> None:
    model, x = randomised(HiddenInTraining()).train(), images()
    with frozen_statistics(model, x) as found:
        got = model(x)
    assert "does not show it" in found.leaves[0].reason
    raw = part(model, "conv")(x)
    torch.testing.assert_close(got, torch.cat([part(model, "norm").eval()(raw), raw]))


def test_a_norm_in_a_model_that_cannot_be_captured_runs_by_itself() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Any:
            return self.norm(self.conv(x if float(x.detach().sum()) > 0 else -x))

    found = assert_like_eval_mode(Branching(), images())
    assert "cannot be captured" in found.leaves[0].reason


def test_a_norm_without_running_statistics_keeps_its_batches() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), images()
    wanted = model(x)
    with frozen_statistics(model, x) as found:
        assert torch.equal(model(x), wanted)
    assert "no running statistics" in found.leaves[0].reason


def test_the_comparison_sees_a_scale_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = absorbed_forward._scale_and_shift

    def wrong(norm: Any, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        scale, shift = right(norm, bias)
        return scale * (1 + 1e-8), shift

    monkeypatch.setattr(absorbed_forward, "_scale_and_shift", wrong)
    with pytest.raises(AssertionError):
        assert_like_eval_mode(with_own_norms(), images(8))


def test_statistics_move_again_afterwards_and_not_before() -> None:
    model, x = randomised(with_own_norms()).train(), images(4)
    before = copy.deepcopy(model)
    with frozen_statistics(model, x):
        model(x)
        assert equal_states(model, before)
    model(x)
    before(x)
    assert equal_states(model, before)
    assert part(model, "1").num_batches_tracked == 1


def test_a_model_is_restored_after_an_exception_in_it() -> None:
    model = randomised(with_own_norms()).train()
    before = observed(model)
    with pytest.raises(RuntimeError, match="channels"), frozen_statistics(model, images()):
        model(images(2, 4))
    assert same(before, observed(model))
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_forward_that_somebody_else_replaced_comes_back() -> None:
    model, x = randomised(with_own_norms()).double(), images().double()
    norm = part(model, "1")
    theirs = norm.forward = partial(nn.BatchNorm2d.forward, norm)
    wanted = model(x)
    with frozen_statistics(model, x) as found:
        torch.testing.assert_close(model.train()(x), wanted)
    assert norm.forward is theirs
    assert "was replaced" in found.leaves[0].reason
    assert [pair.norm for pair in found.absorbed] == ["4"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, independent_copy])
def test_a_copy_made_meanwhile_has_tensors_of_its_own(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), with_own_norms())
    model, x = randomised(network).double(), images(4).double()
    with frozen_statistics(model, x) as found:
        assert (len(found.absorbed), len(found.leaves)) == (2, 1)
        wanted = model(x)
        twin = duplicate(model)
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.zero_()
        torch.testing.assert_close(twin.train()(x), wanted)
        with torch.no_grad():
            part(twin, "1.1").weight.mul_(2)
        assert not torch.allclose(twin(x), wanted)
    assert list(twin.state_dict()) == list(network.state_dict())


def test_keys_and_names_stay_meanwhile_and_a_state_can_be_loaded() -> None:
    model, x = randomised(with_own_norms()).double(), images(4).double()
    other = randomised(copy.deepcopy(model))
    names = list(model.named_parameters()), list(model.state_dict())
    with frozen_statistics(model, x):
        assert (list(model.named_parameters()), list(model.state_dict())) == names
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(model(x), other(x))


@pytest.mark.parametrize("way", WAYS)
def test_autocast_computes_in_half_precision_and_trains_in_full(way: str) -> None:
    model, x = randomised(nn.Sequential(with_own_norms(), nn.BatchNorm1d(5))), images(8)
    wanted = in_eval_mode(model, x)
    with frozen_statistics(model, x), scaling(way), torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradients(model, x)
    assert got[""].dtype == torch.bfloat16
    for name, tensor in wanted.items():
        assert name == "" or got[name].dtype == torch.float32
        error = (got[name].float() - tensor).norm() / tensor.norm().clamp_min(1e-3)
        assert float(error) < 0.1, name


@pytest.mark.parametrize("way", WAYS)
def test_half_precision_layers_with_norms_in_full_precision(way: str) -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    part(model, "0").bfloat16()
    x = images().bfloat16()
    wanted = model(x)
    with frozen_statistics(model, x), scaling(way):
        torch.testing.assert_close(model(x), wanted, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("way", WAYS)
def test_channels_last_stays(way: str) -> None:
    model, x = randomised(with_own_norms()[:3]).to(memory_format=torch.channels_last), images(4)
    x = x.contiguous(memory_format=torch.channels_last)
    with frozen_statistics(model, x), scaling(way):
        assert model(x).is_contiguous(memory_format=torch.channels_last)
        assert not model(x).is_contiguous()
        model(x).sum().backward()
    assert part(model, "0").weight.grad.is_contiguous(memory_format=torch.channels_last)


def test_the_weight_of_a_large_dense_layer_is_not_copied() -> None:
    model, x = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64)), torch.randn(8, 64)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with frozen_statistics(model, x), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    assert max(tensor.numel() for tensor in kept if tensor.data_ptr() not in parameters) == 8 * 64


def test_a_capture_meanwhile_shows_no_norm() -> None:
    model, x = randomised(with_own_norms()), images()
    with frozen_statistics(model, x):
        names = {str(node.target) for node in capture(model, x).nodes}
    assert not any("batch_norm" in name for name in names)


def test_a_call_without_a_batch_is_refused() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), images()
    with frozen_statistics(model, x), pytest.raises(InputRejectedError, match="takes batches"):
        model(x[0])


def test_a_wrapped_model_is_refused() -> None:
    model = nn.DataParallel(with_own_norms())
    with pytest.raises(InputRejectedError, match=r"Pass model\.module"), frozen_statistics(model, images()):
        pass


def test_a_model_without_norms_is_left_alone() -> None:
    with frozen_statistics(chain(), images()) as found:
        assert found == FrozenStatistics((), ())
