"""Networks that once got a wrong answer, or a promise that was not kept: one test for each."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnretrofit import calibrate, fold, insert, make_fold_plan, make_plan, retrofit, verify
from bnretrofit.errors import InputRejectedError
from bnretrofit.norms import ChannelsLastBatchNorm1d
from bnretrofit.sample_moments import sample_moments
from bnretrofit.standing import Normed


def test_an_eps_that_is_an_int_counts() -> None:
    m = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(fold(m, x)(x), m(x))


class OtherEps(nn.BatchNorm2d):
    def forward(self, i: Tensor) -> Tensor:
        return F.batch_norm(i, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, 3.0)


def test_a_norm_called_with_other_arguments_than_its_own_is_not_dropped() -> None:
    x = torch.randn(4, 3, 8, 8)
    a: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    o = OtherEps(4)
    o.load_state_dict(retrofit(a, [x]).get_submodule("0.norm").state_dict())
    b = nn.Sequential(nn.Sequential(a[0], o.eval()), a[1], a[2]).eval()
    assert not verify(a, b, [x]).proved


class Doubling(ChannelsLastBatchNorm1d):
    def forward(self, i: Tensor) -> Tensor:
        return super().forward(i) * 2


@pytest.mark.parametrize("way", ["subclass", "hook"])
def test_arithmetic_in_a_channels_last_norm_is_not_dropped(way: str) -> None:
    x = torch.randn(4, 6, 4)
    t: Any = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    b: Any = retrofit(t, [x])
    if way == "subclass":
        d = Doubling(5)
        d.load_state_dict(b[0].norm.state_dict())
        b = nn.Sequential(Normed(t[0], d), nn.ReLU(), t[2]).eval()
    else:
        b[0].norm.register_forward_hook(lambda m, i, o: o * 2)
    assert not verify(t, b, [x]).proved


class Box:
    def __init__(self, t: Tensor) -> None:
        self.t = t


class Boxed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        return Box(self.l(x))


def test_models_whose_outputs_cannot_be_seen_do_not_pass() -> None:
    assert not verify(Boxed(), Boxed(), [torch.randn(2, 4)]).passed


class Sized(nn.Module):
    def __init__(self, c: nn.Module, k: int) -> None:
        super().__init__()
        self.c, self.k = c, k

    def forward(self, x: Tensor) -> Any:
        return self.c(x) * 2 if x.shape[0] == self.k else self.c(x)


def test_a_report_is_never_both_proved_and_failed() -> None:
    c = nn.Conv2d(3, 3, 1)
    report = verify(Sized(c, 100), Sized(c, 7), [torch.randn(4, 3, 8, 8), torch.randn(7, 3, 8, 8)])
    assert not report.proved


class Counting(nn.Module):
    n: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.c, self.h = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        self.n += 1
        return self.h(self.c(x).relu())


def test_a_buffer_that_the_model_writes_in_eval_mode_is_left_alone() -> None:
    m: Any = Counting().eval()
    x = torch.randn(2, 3, 4, 4)
    plan = make_plan(m, x)
    stats = calibrate(m, plan, [x])
    assert m.n == 0
    r = insert(m, plan, stats)
    verify(m, r, [x])
    assert m.n == 0


def test_tokens_that_are_not_contiguous_have_their_own_moments() -> None:
    x = torch.randn(4, 5, 42).movedim(1, -1)  # (N, L, C) over (N, C, L) memory
    _, mean, _ = sample_moments(x, -1)
    torch.testing.assert_close(mean, x.double().mean(1), rtol=1e-5, atol=1e-6)


def test_a_folded_model_s_identities_are_in_its_mode() -> None:
    m = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    assert {module.training for module in fold(m, torch.randn(1, 3, 8, 8)).modules()} == {False}


class Plain(nn.Module):
    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x).mean((2, 3)))


def test_frozen_parameters_stay_frozen_in_a_twin() -> None:
    m: Any = Plain(norm=False)
    m.body[0].weight.requires_grad_(False)
    r: Any = retrofit(m, [torch.randn(4, 3, 8, 8)], like=Plain(norm=True))
    assert not r.body[0].weight.requires_grad


def test_the_twin_itself_does_not_travel_in_the_result() -> None:
    r: Any = retrofit(Plain(norm=False), [torch.randn(4, 3, 8, 8)], like=Plain(norm=True))
    assert r.bnretrofit_plan.like is None


def test_a_second_retrofit_of_a_twin_does_not_forget_what_the_first_inserted() -> None:
    x = torch.randn(4, 3, 8, 8)
    r = retrofit(Plain(norm=False), [x], like=Plain(norm=True))
    with pytest.raises(InputRejectedError, match="retrofitted like a Plain already"):
        retrofit(r, [x])
    assert len(make_fold_plan(r.eval(), x).folds) == 1


def test_one_per_cent_is_seen_in_bfloat16() -> None:
    m: Any = Plain(norm=False).bfloat16().eval()
    x = torch.randn(4, 3, 8, 8).bfloat16()
    r: Any = retrofit(m, [x])
    with torch.no_grad():
        r.body[0].layer.weight.mul_(1.01)
    assert not verify(m, r, [x]).passed
