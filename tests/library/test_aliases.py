"""Norms whose input or output shares memory with what is changed in place: they stay, and nothing is proved."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import fold, make_fold_plan, retrofit, verify
from bnretrofit.aliases import is_private, is_undisturbed
from bnretrofit.capture import capture, op_of
from bnretrofit.identity import set_identity
from bnretrofit.moments import ChannelStats
from tests.library.networks import images
from tests.library.observing import planned, randomised, run


class Says(nn.Module):
    """A conv, a norm that is the identity or not, and another layer, called as a function says."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], *, identity: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.relu = nn.ReLU(inplace=True)
        self.calls = forward
        if identity:
            set_identity(self.norm, ChannelStats(9, torch.zeros(4).double(), torch.ones(4).double()))
        else:
            randomised(self)
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.calls(self, x)


def view_then_relu(m: Any, x: Tensor) -> Any:
    y = m.first(x)
    return m.relu(m.norm(y[:, :])) + y


def base_changed(m: Any, x: Tensor) -> Any:
    y = m.first(x)
    z = m.norm(y[:, :])
    y.relu_()
    return y + z


def reshaped(m: Any, x: Tensor) -> Any:
    y = m.first(x)
    return m.norm(y.view(y.shape)).relu_() + y


def split(m: Any, x: Tensor) -> Any:
    y = m.first(x)
    return m.relu(m.norm(y.chunk(1)[0])) - y


DISTURBED = [view_then_relu, base_changed, reshaped, split]


@pytest.mark.parametrize("forward", DISTURBED)
def test_an_identity_is_not_taken_out_where_a_change_in_place_would_be_seen(forward: Any) -> None:
    model, x = Says(forward, identity=True), images(4)
    (left,) = make_fold_plan(model, x).leaves
    assert "changed in place" in left.reason
    assert torch.equal(run(fold(model, x), x), run(model, x))


@pytest.mark.parametrize("forward", DISTURBED)
def test_it_is_not_proved_to_be_what_is_left_without_it(forward: Any) -> None:
    model, without = Says(forward, identity=True), Says(forward, identity=True)
    without.norm = nn.Identity()  # type: ignore[assignment]
    assert not verify(model, without, [images(4)]).proved


def late(m: Any, x: Tensor) -> Any:
    y = m.first(x)
    z = m.norm(y[:, :])
    y = m.relu(y)
    return m.last(z), y


def test_a_norm_is_not_folded_forward_past_a_change_of_what_it_reads() -> None:
    model, x = Says(late, identity=False), images(4)
    (left,) = make_fold_plan(model, x).leaves
    assert "changed in place" in left.reason
    assert all(torch.equal(a, b) for a, b in zip(run(fold(model, x), x), run(model, x), strict=True))


def early(m: Any, x: Tensor) -> Any:
    y = m.relu(m.first(x))
    return m.last(m.norm(y)).mean() + y


def test_a_change_before_the_norm_is_no_obstacle() -> None:
    model, x = Says(early, identity=False).double(), images(4).double()
    assert [found.direction for found in make_fold_plan(model, x).folds] == ["forward"]
    torch.testing.assert_close(run(fold(model, x), x), run(model, x), rtol=1e-12, atol=1e-12)


def test_memory_is_followed_through_views_and_changes_in_place() -> None:
    def calls(m: Any, x: Tensor) -> Any:
        y = m.first(x)
        return m.last(y.flatten(2).relu_().view(y.shape)), m.first(x)[:, 1:] + 1

    graph = capture(Says(calls, identity=True), images())
    nodes = {op_of(node).split(".")[1]: node for node in graph.nodes}
    assert is_private(nodes["conv2d"])
    assert is_private(nodes["view"])
    assert is_private(nodes["slice"])
    assert is_undisturbed(graph, nodes["add"])
    assert not is_undisturbed(graph, nodes["flatten"])


def test_another_layout_is_not_proved_to_round_alike() -> None:
    class Transposing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.a, self.norm, self.b = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(9, 8)
            set_identity(self.norm, ChannelStats(9, torch.zeros(16).double(), torch.ones(16).double()))

        def forward(self, x: Tensor) -> Any:
            return self.b(self.norm(self.a(x).relu().transpose(1, 2)))

    model, without = Transposing().eval(), Transposing().eval()
    without.norm = nn.Identity()  # type: ignore[assignment]
    report = verify(model, without, [torch.randn(3, 9, 8)])
    assert report.passed
    assert not report.proved


class PadsOdd(nn.Module):
    """Pads images of odd sizes only."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 2, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.norm(x)
        return self.conv(nn.functional.pad(x, (0, 1, 0, 1)) if x.shape[-1] % 2 else x)


def test_a_fold_that_holds_at_one_size_only_is_refused() -> None:
    from bnretrofit.errors import VerificationError

    with pytest.raises(VerificationError, match="on random inputs of another size"):
        fold(randomised(PadsOdd()), images(2, size=8))


def test_a_part_that_was_retrofitted_in_its_place_is_folded_and_forgotten() -> None:
    model: Any = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)
    ).eval()
    randomised(model)
    model[0] = retrofit(model[0], [images(8)], include=["0"])
    once = fold(model, images())
    assert [name for name, _ in once.named_modules() if "norm" in name] == []
    assert make_fold_plan(once, images()).leaves == ()
    assert [found.norm for found in make_fold_plan(once, images()).folds] == ["2"]


def test_a_layer_whose_class_rearranges_its_output_is_a_skip() -> None:
    from bnretrofit import make_plan

    class Patches(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).flatten(2).transpose(1, 2)

    plan = make_plan(nn.Sequential(Patches(3, 4, 2, 2), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), images())
    assert [site.name for site in plan.sites] == ["1"]
    assert "does more with its output" in next(skip.reason for skip in plan.skips if skip.name == "0")


def test_a_dead_channel_before_padding_stays_with_its_norm() -> None:
    model: Any = randomised(nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1))).double()
    with torch.no_grad():
        model[0].weight[0] = model[0].bias[0] = 0.0
    x = images().double()
    plan = planned(model, x)
    assert "no other padding can stand for the shift" in plan.leaves[0].reason
    assert torch.equal(run(fold(model, x, allow_new_layers=True), x), run(model, x))


def test_a_frozen_norm_over_another_dimension_is_not_taken_for_one() -> None:
    from torchvision.ops import FrozenBatchNorm2d

    model = nn.Sequential(nn.Conv1d(4, 4, 1), FrozenBatchNorm2d(4)).eval()
    x = torch.randn(4, 4, 5)
    assert make_fold_plan(model, x).folds == ()
    assert torch.equal(run(fold(model, x), x), run(model, x))


def test_statistics_that_overflow_half_precision_are_refused() -> None:
    from bnretrofit.errors import InputRejectedError
    from bnretrofit.recalibration import recalibrate

    model: Any = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).half().eval()
    with torch.no_grad():
        model[0].weight.mul_(10000)
    with pytest.raises(InputRejectedError, match=r"overflow torch\.float16"):
        recalibrate(model, [images(8).half()])
