"""Two models side by side: the results of their layers, in order, each held no longer than it is looked at."""

import copy
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bnretrofit import fold, retrofit, verify
from bnretrofit.errors import InputRejectedError
from bnretrofit.trials.lockstep import Point, SideBySide
from tests.library.networks import CalledTwice, Tokens, chain, images, with_own_norms
from tests.library.observing import part, randomised


def side_by_side(models: Any, batches: Any, pairs: Any, visit: Any) -> Any:
    with SideBySide(models, pairs) as runs:
        return runs.run(batches, visit)


def pairs_of(*names: str) -> list[tuple[Point, Point]]:
    return [(Point(name), Point(name)) for name in names]


def test_results_of_one_layer_at_a_time_are_held_and_shown_in_order() -> None:
    a, b = chain().eval(), chain().eval()
    seen: list[int] = []
    shown: list[weakref.ref[Tensor]] = []
    x = images()

    def visit(number: int, *results: Tensor) -> None:
        seen.append(number)
        # The last layer reads the memory of the one before it, which was changed in place.
        assert number == 3 or all(result() is None for result in shown), "what was shown before is gone"
        shown.extend(weakref.ref(result) for result in results)

    outputs = side_by_side((a, b), (x.clone(), x.clone()), pairs_of("0", "4", "8", "11"), visit)
    assert seen == [0, 1, 2, 3]
    with torch.no_grad():
        assert torch.equal(outputs[0][0], a(x))
        assert torch.equal(outputs[1][0], b(x))


def test_what_is_shown_is_what_the_layers_give_before_it_is_changed_in_place() -> None:
    model = chain().eval()
    x, found = images(), {}

    def visit(number: int, a: Tensor, b: Tensor) -> None:
        found[number] = a.clone(), b.clone()

    side_by_side((model, copy.deepcopy(model)), (x, x), pairs_of("0"), visit)
    with torch.no_grad():
        wanted = part(model, "0")(x)
    assert bool((wanted < 0).any())
    assert all(torch.equal(shown, wanted) for shown in found[0])


def test_a_layer_called_twice_has_two_results() -> None:
    model = CalledTwice().eval()
    points = [(Point("conv", call), Point("conv", call)) for call in (0, 1)]
    found: list[Tensor] = []
    x = images()
    side_by_side((model, model), (x, x), points, lambda _, a, __: found.append(a.clone()))
    with torch.no_grad():
        first = model.conv(x)
        assert torch.equal(found[0], first)
        assert torch.equal(found[1], model.conv(functional.relu(first)))


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_either_model_ends_both(failing: int) -> None:
    class Fails(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise ValueError("no such thing")

    good, bad = chain().eval(), nn.Sequential(*chain()[:4], Fails()).eval()
    models = (bad, good) if failing == 0 else (good, bad)
    before = threading.active_count()
    x = images()
    with pytest.raises(InputRejectedError, match="no such thing"):
        side_by_side(models, (x, x), pairs_of("0", "4"), lambda *_: None)

    def refuse(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side((good, good), (x, x), pairs_of("0", "4"), refuse)
    # After a failure, the next batch is run as if there had been none.
    with SideBySide((good, copy.deepcopy(good)), pairs_of("0", "4")) as runs:
        with pytest.raises(KeyboardInterrupt):
            runs.run((x.clone(), x.clone()), refuse)
        outputs = runs.run((x.clone(), x.clone()), lambda *_: None)
        assert torch.equal(outputs[0][0], outputs[1][0])
    assert threading.active_count() == before
    assert not any(module._forward_hooks for module in good.modules())


class Mixed(nn.Module):
    """Left at its first layer, it is within a block of mixed precision, and at its second it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            x = self.first(x)
        found: Tensor = self.second(x.float())
        return found


def test_each_model_keeps_its_own_precision() -> None:
    model = Mixed().eval()
    x = torch.randn(8, 64)
    with torch.inference_mode():
        wanted = model(x)
    seen: list[torch.dtype] = []
    points = pairs_of("first", "second")
    outputs = side_by_side(
        (model, copy.deepcopy(model)), (x, x), points, lambda _, a, b: seen.extend((a.dtype, b.dtype))
    )
    assert seen == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    assert torch.equal(outputs[0][0], wanted)
    assert torch.equal(outputs[1][0], wanted)
    assert not torch.is_autocast_enabled("cpu")


def test_layers_run_in_another_order_are_left_out_and_nothing_hangs() -> None:
    class Ordered(nn.Module):
        def __init__(self, *, turned: bool) -> None:
            super().__init__()
            self.left, self.right, self.turned = nn.Linear(4, 4), nn.Linear(4, 4), turned

        def forward(self, x: Tensor) -> Any:
            if self.turned:
                return self.right(x) + self.left(x)
            return self.left(x) + self.right(x)

    seen: list[int] = []
    x = torch.randn(2, 4)
    models = Ordered(turned=False).eval(), Ordered(turned=True).eval()
    side_by_side(models, (x, x), pairs_of("left", "right"), lambda number, *_: seen.append(number))
    assert seen == [1]


def test_each_layer_is_paired_with_its_norm_whatever_it_is_called() -> None:
    model = randomised(with_own_norms())
    report = verify(model, fold(model, images()), [images(4)], per_layer=True)
    assert report.layers
    assert report.first_divergent is None
    assert all(layer.floor is not None and layer.max_rel_error < 1e-5 for layer in report.layers)
    tokens, x = randomised(Tokens()), torch.randn(2, 6, 4)
    made = retrofit(tokens, [x])
    layers = verify(tokens, made, [x], per_layer=True).layers
    assert layers
    assert all(layer.max_abs_error == 0 for layer in layers)
