"""Batches that do not fit in memory are run in parts, and every sample counts once, whichever layer it failed in."""

import warnings
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import ChannelStats, calibrate, make_plan
from bnretrofit.batches import split
from bnretrofit.errors import InputRejectedError, ResourceError, SplitBatchWarning
from bnretrofit.memory import is_out_of_memory, shortage_behind, splits_noted
from bnretrofit.moments import PassMoments
from bnretrofit.recalibration import recalibrate
from tests.library.networks import Keywords, chain, images
from tests.library.observing import norms_of, randomised

CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
CUDA = "CUDA out of memory. Tried to allocate 1.25 GiB. GPU 0 has a total capacity of 139.80 GiB of which 1.06 GiB is "
ERRORS: list[Callable[[], BaseException]] = [
    lambda: RuntimeError(f"{CPU}1288490189 bytes. Error code 12 (Cannot allocate memory)"),
    lambda: torch.OutOfMemoryError(f"{CUDA}free. Including non-PyTorch memory, this process has 138.74 GiB in use."),
    MemoryError,
]


class Tight(nn.Module):
    """Stands for a layer that runs out of memory with more samples than it has room for.

    Attributes:
        tried: How many samples came, call by call; of the class, since a copy of the model is what runs.
        held: The activations of failed calls.
    """

    tried: ClassVar[list[int]] = []
    held: ClassVar[list[weakref.ref[Tensor]]] = []

    def __init__(self, room: int, error: Callable[[], BaseException] = ERRORS[0]) -> None:
        super().__init__()
        self.room = room
        self.error = error
        self.tried.clear()
        self.held.clear()

    def forward(self, x: Tensor) -> Tensor:
        self.tried.append(len(x))
        assert all(held() is None for held in self.held), "a failed call's activation is still there"
        if len(x) > self.room:
            activation = x + 1
            self.held.append(weakref.ref(activation))
            raise self.error()
        return x


def tight_chain(room: int, error: Callable[[], BaseException] = ERRORS[0]) -> tuple[nn.Sequential, Tight]:
    """`chain` with the tight place after two of its three sites."""
    tight, model = Tight(room, error), chain()
    model.insert(7, tight)
    return model, tight


def measured(model: nn.Module, batches: Any, example: Any) -> dict[str, ChannelStats]:
    return calibrate(model, make_plan(model, example), batches)


def assert_equal(a: dict[str, ChannelStats], b: dict[str, ChannelStats]) -> None:
    assert a.keys() == b.keys()
    for name, found in a.items():
        assert found.count == b[name].count
        assert torch.equal(found.mean, b[name].mean)
        assert torch.equal(found.var, b[name].var)


@pytest.mark.parametrize("error", ERRORS)
def test_every_sample_counts_once_though_a_late_layer_runs_out(error: Callable[[], BaseException]) -> None:
    (model, tight), x = tight_chain(3, error), images(23)
    plan = make_plan(model, x[:1])
    tight.tried.clear()
    with pytest.warns(SplitBatchWarning, match="a batch of 12 samples did not fit .* parts of at most 3;"):
        found = calibrate(model, plan, [x[:12], x[12:]])
    # The second batch is not tried whole: it is known by then what fits.
    assert tight.tried == [12, 6, 3, 3, 3, 3, 3, 3, 3, 2]
    tight.room = 23
    assert_equal(found, measured(model, [*x[:12].split(3), *x[12:].split(3)], x[:1]))


def test_a_pass_that_is_counted_before_it_has_gone_through_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    (model, _), x = tight_chain(3), images(12)
    wanted = measured(model, x.split(3), x[:1])
    monkeypatch.setattr(PassMoments, "discard", PassMoments.commit)
    with pytest.warns(SplitBatchWarning):
        found = measured(model, [x], x[:1])
    assert found["0"].count > wanted["0"].count
    with pytest.raises(AssertionError):
        assert_equal(found, wanted)


class TightKeywords(Keywords):
    """Two inputs, a number, and room for a few samples; `weights` is the same for all of them."""

    def forward(self, image: Tensor, extra: Tensor, scale: float = 1.0, weights: Tensor | None = None) -> Any:
        assert len(image) == len(extra)
        assert weights is None or weights.shape == (5,)
        if len(image) > 3:
            raise MemoryError
        return super().forward(image, extra, scale)


@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_batches_of_several_tensors_are_not_split_since_a_table_may_be_as_long(kind: str) -> None:
    def batch(part: slice) -> Any:
        given = {"image": image[part], "extra": extra[part], "scale": 0.5, "weights": torch.ones(5)}
        return given if kind == "dict" else tuple(given.values())

    image, extra, model = images(12), torch.randn(12, 2), TightKeywords()
    plan = make_plan(model, batch(slice(0, 1)))
    with pytest.raises(ResourceError, match=r"with a batch of 12.*[Pp]ass smaller batches"):
        calibrate(model, plan, [batch(slice(0, 12))])
    calibrate(model, plan, [batch(slice(start, start + 3)) for start in range(0, 12, 3)])


def test_recalibration_counts_every_sample_once() -> None:
    tight = Tight(3)
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), tight, nn.BatchNorm2d(4)))
    x = images(12)
    wanted = recalibrate(model, list(x.split(3))).model
    with pytest.warns(SplitBatchWarning, match="12 samples did not fit"):
        found = recalibrate(model, [x]).model
    for a, b in zip(norms_of(found), norms_of(wanted), strict=True):
        assert torch.equal(a.running_mean, b.running_mean)
        assert torch.equal(a.running_var, b.running_var)


@pytest.mark.parametrize(
    ("error", "amount"),
    [(ERRORS[0], "allocate 1.2 GiB"), (ERRORS[1], "allocate 1.25 GiB"), (ERRORS[2], "MemoryError")],
)
def test_one_sample_too_many_says_how_much_was_needed(error: Callable[[], BaseException], amount: str) -> None:
    model, tight = tight_chain(1, error)
    plan = make_plan(model, images(1))
    tight.room = 0
    with pytest.raises(ResourceError, match=f"with even one sample: .*{amount}") as caught:
        calibrate(model, plan, [images(4)])
    assert caught.value.exit_code == 5
    # Whoever keeps the error does not keep the activations.
    assert caught.value.__cause__ is None
    assert [held() for held in tight.held] == [None] * len(tight.held) != []


def test_a_model_that_does_not_take_the_batch_is_not_out_of_memory() -> None:
    model, tight = tight_chain(4)
    plan = make_plan(model, images(1))
    with pytest.raises(InputRejectedError, match="does not take the batch"):
        calibrate(model, plan, [images(4, channels=2)])
    tight.error = lambda: RuntimeError("expected more memory formats")
    with pytest.raises(InputRejectedError, match="does not take the batch"):
        calibrate(model, plan, [images(8)])


@pytest.mark.parametrize(
    "text", ["DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.", "std::bad_alloc"]
)
def test_what_other_allocators_say_is_known(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(ValueError(text))


def test_a_shortage_is_found_behind_what_it_was_made_into() -> None:
    error = InputRejectedError("the Sequential does not take the batch")
    assert shortage_behind(error) is None
    error.__cause__ = RuntimeError(f"{CPU}8 bytes.")
    assert str(shortage_behind(error)) == "memory ran out: it tried to allocate 8 bytes"


def test_a_split_is_noted_and_another_warning_passes() -> None:
    def measure() -> list[str]:
        with splits_noted() as notes:
            measured(model, [x], x[:1])
            warnings.warn("old", DeprecationWarning, stacklevel=1)
        return notes

    (model, _), x = tight_chain(3), images(12)
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        notes = measure()
    assert ["parts of at most 3" in note for note in notes] == [True]
    assert [str(other.message) for other in others] == ["old"]


def test_a_batch_is_split_in_order() -> None:
    assert [part.tolist() for part in split(torch.arange(5), 2)] == [[0, 1], [2, 3], [4]]
