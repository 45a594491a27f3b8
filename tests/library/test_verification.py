"""The checker accepts equal models, measures the others, and leaves both as they were."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import fold, retrofit, verify
from bnretrofit.comparison import tolerance_for
from bnretrofit.differences import Accuracy
from bnretrofit.errors import InputRejectedError
from bnretrofit.verification import verify_labelled
from tests.library.networks import Keywords, Residual, chain, images, with_own_norms
from tests.library.observing import observed, part, randomised, same

LAYERS = ("0", "4", "8", "11")


def retrofitted() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    model = chain().eval()
    return model, retrofit(model, [images(16)])


def test_equal_models_are_accepted_with_the_strongest_answer() -> None:
    model, other = retrofitted()
    for b in (model, copy.deepcopy(model), other):
        report = verify(model, b, [images(3), images(4)])
        assert report.passed
        assert report.proved
        assert report.bit_identical
        assert report.max_abs_error == report.max_rel_error == report.required_rtol == 0.0
        assert (report.top1_agreement, report.samples, report.random_samples) == (1.0, 7, 3)
        assert report.reason is report.difference is report.layer is None


def test_a_fold_is_accepted_as_close_though_not_proved() -> None:
    model = randomised(with_own_norms())
    report = verify(model, fold(model, images()), [images(8)])
    assert report.passed
    assert not report.proved
    assert report.tensor_error is not None
    assert report.tensor_error < 1e-6
    assert 0 < report.max_rel_error < 1e-5


def test_the_required_tolerance_is_the_smallest_that_passes() -> None:
    model = randomised(with_own_norms())
    other, batches = fold(model, images()), [images(8)]
    needed = verify(model, other, batches, atol=0.0).required_rtol
    assert 0 < needed < 1e-4
    assert verify(model, other, batches, rtol=needed, atol=0.0).passed
    assert not verify(model, other, batches, rtol=needed * 0.99, atol=0.0).passed
    assert verify(model, other, batches, rtol=0.0, atol=1.0).passed


def test_the_figures_are_those_of_the_outputs() -> None:
    class Answers(nn.Module):
        def __init__(self, *change: float) -> None:
            super().__init__()
            self.change = torch.tensor(change)

        def forward(self, x: Tensor) -> Any:
            return x + self.change

    a, b = Answers(0.0, 0.0), Answers(0.0, 1.0)
    x = torch.tensor([[4.0, 1.0], [2.0, 1.5]])
    report = verify(a, b, [{"x": x.long()}])
    assert report.random_samples == 0
    assert "no random inputs" in report.notes[0]
    report = verify(a, b, [x])
    assert report.max_abs_error == 1.0
    assert report.mean_abs_error == pytest.approx(0.5)
    assert report.top1_agreement == 0.5
    assert report.samples == 2


def test_top_one_hits_of_both_are_counted_on_labels() -> None:
    model, other = chain().eval(), chain().eval()
    x = images(40)
    with torch.no_grad():
        answers = model(x).argmax(1), other(x).argmax(1)
    accuracy = Accuracy(labels_for=lambda classes: answers[0].tolist() if classes == 5 else None)
    verify_labelled(model, other, x.split(7), accuracy=accuracy)
    assert accuracy.seen == 40
    shares = accuracy.shares()
    assert shares is not None
    assert shares == pytest.approx((1.0, float((answers[0] == answers[1]).float().mean())))
    unknown = Accuracy(labels_for=lambda _: None)
    verify_labelled(model, other, x.split(7), accuracy=unknown)
    assert unknown.shares() is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_tolerance_is_that_of_the_model_s_dtype(dtype: torch.dtype) -> None:
    model = chain().to(dtype).eval()
    report = verify(model, retrofit(model, [images(8).to(dtype)]), [images(4).to(dtype)])
    assert report.passed
    assert report.proved
    assert (report.rtol, report.atol) == (tolerance_for(dtype).rtol, tolerance_for(dtype).atol)


@pytest.mark.parametrize("training", [True, False])
def test_both_models_are_left_as_they_were(training: bool) -> None:
    a, b = with_own_norms().train(training), Residual().train(training)
    part(a, "0").register_forward_hook(lambda *_: None)
    before = observed(a), observed(b)
    assert not verify(a, b, [images(4)]).passed
    with pytest.raises(InputRejectedError, match="does not take the batch"):
        verify(a, b, [images(4), images(4, 5)])
    with pytest.raises(InputRejectedError, match="no batch to verify with"):
        verify(a, b, [])
    assert same(before[0], observed(a))
    assert same(before[1], observed(b))


def test_batches_may_be_tuples_and_dicts_and_are_left_alone() -> None:
    class InPlace(Keywords):
        def forward(self, image: Tensor, extra: Tensor, scale: float = 1.0) -> Any:
            return super().forward(image.mul_(2), extra, scale)

    model = InPlace().eval()
    x, extra = images(), torch.randn(2, 2)
    kept = x.clone()
    assert verify(
        model, copy.deepcopy(model), [{"image": x, "extra": extra}, {"image": x, "extra": extra}]
    ).bit_identical
    assert verify(model, copy.deepcopy(model), [(x, extra, 0.5)]).bit_identical
    assert torch.equal(x, kept)


def test_models_that_cannot_be_captured_are_compared_by_their_outputs() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Any:
            return self.conv(x) if float(x.sum()) > -1e9 else x

    model = Deciding().eval()
    report = verify(model, copy.deepcopy(model), [images(4)])
    assert report.passed
    assert report.bit_identical
    assert not report.proved
    assert "the graphs could not be compared" in report.notes[0]
    assert not verify(model, Deciding().eval(), [images(4)]).passed


class Mixed(nn.Module):
    """A part of it is kept out of autocast: torch.export makes that a graph of its own."""

    def __init__(self, factor: float = 2.0, *, noisy: bool = False) -> None:
        super().__init__()
        self.body, self.head, self.factor, self.noisy = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), factor, noisy

    def forward(self, x: Tensor) -> Any:
        x = self.body(x).relu()
        with torch.autocast("cpu", enabled=False):
            x = x.float() * self.factor
            x = x + torch.rand_like(x) * 0 if self.noisy else x
        return self.head(x)


def test_a_part_that_is_a_graph_of_its_own_is_compared_too() -> None:
    model, x = Mixed().eval(), images(4)
    retrofitted = retrofit(model, [x], include=["body"])
    report = verify(model, retrofitted, [x])
    assert report.proved, report.difference
    other = Mixed(3.0).eval()
    other.load_state_dict(model.state_dict())
    assert not verify(model, other, [x]).passed
    # Where the outputs cannot tell, the graphs do.
    other.head.weight.data.zero_()
    silent = copy.deepcopy(other)
    silent.factor = 2.0
    report = verify(silent, other, [x])
    assert report.bit_identical
    assert not report.proved


def test_why_equality_cannot_be_proved_is_told() -> None:
    model, x = Mixed(noisy=True).eval(), images(4)
    report = verify(model, copy.deepcopy(model), [x])
    assert report.bit_identical
    assert not report.proved
    assert any("cannot be proved" in note and "random numbers" in note for note in report.notes)
