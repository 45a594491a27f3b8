"""Two models tried: on inputs that nobody chose, uphill, against float64."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnretrofit import fold, retrofit, verify
from bnretrofit.comparison import tolerance_for
from bnretrofit.trials.adversarial import worst_inputs
from bnretrofit.trials.alignment import ALIGNMENT, align
from bnretrofit.trials.drift import drift_by_batch_size
from bnretrofit.trials.floor import ReferenceFloor
from bnretrofit.trials.inputs import EXTREMES, extreme_like
from bnretrofit.trials.layers import layer_error
from bnretrofit.trials.running import outputs_of
from bnretrofit.trials.trying import Trials
from bnretrofit.verification import Checks, verify_labelled
from tests.library.networks import Residual, chain, images, with_own_norms
from tests.library.observing import part, randomised


def test_the_error_of_a_layer_is_the_largest_of_its_samples() -> None:
    a = torch.tensor([[1.0, -4.0], [0.5, 0.0]])
    b = torch.tensor([[1.0, -4.4], [0.5, 0.25]])
    worst, relative = layer_error(a, b)
    assert worst == pytest.approx(0.4)
    assert relative == pytest.approx(0.5)
    assert layer_error(a, a) == (0.0, 0.0)
    assert layer_error(a, b[:1]) == (math.inf, math.inf)
    assert math.isnan(layer_error(a, torch.full_like(a, math.nan))[0])
    assert layer_error(torch.zeros(1, 2), torch.ones(1, 2)) == (1.0, math.inf)


def test_extremes_are_what_their_names_say() -> None:
    batch = torch.tensor([[[[-1.0, 2.0]]]])
    made = {kind: extreme_like(kind, batch, {torch.float32}) for kind in EXTREMES}
    assert all(extreme.shape == batch.shape for extreme in made.values())
    assert not made["zeros"].any()
    assert bool((made["ones"] == 1).all())
    assert bool((made["huge"].abs() == 1e6).all())
    assert bool((made["denormal"] != 0).all())
    assert float(made["denormal"].abs().max()) < torch.finfo(torch.float32).tiny
    assert set(made["saturated"].flatten().tolist()) <= {-1.0, 2.0}
    assert float(extreme_like("huge", batch, {torch.float16, torch.float32}).abs().max()) == 1e3


class Bent(nn.Module):
    """Differs from the identity where an input is beyond a bound, and nowhere else."""

    def __init__(self, bound: float = math.inf, *, by: float = 1.0) -> None:
        super().__init__()
        self.bound, self.by = bound, by

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.abs() > self.bound, self.by * x, x)


@pytest.mark.parametrize(("bound", "kind"), [(100.0, "huge"), (0.999, "ones")])
def test_a_difference_on_an_extreme_input_alone_is_found(bound: float, kind: str) -> None:
    given = -torch.rand(4, 3)
    trials = Trials((Bent(), Bent(bound, by=1.5)), tolerance_for(torch.float32))
    trials.add("given", given, outputs_of(trials.models, given))
    trials.try_others(given, 0)
    assert kind in trials.reasons()
    assert "given" not in trials.reasons()


def test_rounding_explains_an_error_on_an_extreme_input_and_no_other() -> None:
    class Cancels(nn.Module):
        """Sums that float32 cannot hold for large inputs."""

        def __init__(self, *, turned: bool) -> None:
            super().__init__()
            self.turned = turned
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Any:
            big = x.square() * 1e3
            small = torch.full_like(x, 0.5)
            parts = (small + big, -big) if self.turned else (big, small - big)
            return (parts[0] + parts[1]).sum(1, keepdim=True) * self.weight

    a, b = Cancels(turned=False), Cancels(turned=True)
    report = verify(a, b, [torch.zeros(2, 3)])
    huge = next(tried for tried in report.tried if tried.kind == "huge")
    assert report.passed, report
    assert huge.excused or huge.max_rel_error == 0
    # What rounding does not explain is not excused.
    trials = Trials((a, Bent()), tolerance_for(torch.float32))
    trials.try_others(torch.zeros(2, 1), 0)
    assert trials.reasons()


def test_a_climb_finds_inputs_that_part_the_models_more() -> None:
    torch.manual_seed(0)
    model = chain().eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        part(other, "4").weight[2] *= 1.5
    start = images(4)
    found = worst_inputs((model, other), start, 8)
    assert found is not None

    def share(x: Tensor) -> Any:
        with torch.no_grad():
            return (model(x) - other(x)).square().sum(1) / model(x).square().sum(1)

    assert bool((share(found) >= share(start)).all())
    assert float(share(found).max()) > 1.2 * float(share(start).max())
    report = verify(model, other, [start], adversarial_steps=8)
    tried = {kind.kind: kind for kind in report.tried}
    assert tried["adversarial"].max_rel_error > tried["given"].max_rel_error
    assert not start.requires_grad


def test_where_there_is_nothing_to_climb_that_is_said() -> None:
    class Says(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x.argmax(1)

    report = verify(Says(), Says(), [images(4)], adversarial_steps=2)
    assert any("no adversarial input" in note for note in report.notes)


def test_the_floor_is_what_float32_does_to_the_reference() -> None:
    model = randomised(with_own_norms())
    x = images(4)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        wanted = float(((model(x) - exact).abs().amax(1) / exact.abs().amax(1)).max())
    floor = ReferenceFloor(model)
    assert floor.error_on(x) == pytest.approx(wanted, rel=1e-6)
    assert 0 < wanted < 1e-5
    assert next(model.parameters()).dtype == torch.float32
    report = verify(model, fold(model, x), [x])
    assert report.floor is not None
    assert report.floor >= wanted * 0.999
    assert verify(copy.deepcopy(model).double(), copy.deepcopy(model).double(), [x.double()]).floor is None


def test_a_model_that_is_bound_to_its_precision_has_no_floor_and_says_so() -> None:
    class Bound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            return self.layer(x.float())

    report = verify(Bound(), Bound().train(), [torch.randn(2, 4)])
    assert report.floor is None
    assert any("rounding could not be measured" in note for note in report.notes)


def test_the_same_tensors_at_another_place_in_memory_are_bit_identical() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).eval()
    weight = part(model, "1").weight
    results = set()
    x = images(1)
    for offset in range(16):
        room = torch.empty(weight.numel() + 32)
        start = (-room.data_ptr() // 4) % 16 + offset
        astray = room[start : start + weight.numel()].view_as(weight).copy_(weight.detach())
        other = copy.deepcopy(model)
        part(other, "1").weight = nn.Parameter(astray)
        assert (part(other, "1").weight.data_ptr() % ALIGNMENT == 0) is (offset == 0)
        assert verify(model, other, [x]).bit_identical
        assert part(other, "1").weight.data_ptr() == astray.data_ptr(), "the argument is left as it is"
        align((copy.deepcopy(model), other))
        results.add(part(other, "1").weight.data_ptr() % ALIGNMENT)
    assert results == {0}


def test_drift_falls_with_the_batch_and_is_measured_over_the_same_samples() -> None:
    torch.manual_seed(0)
    model = retrofit(chain().eval(), [images(64)])
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = drift_by_batch_size(model, [images(20), images(20)])
    assert [drift.batch_size for drift in found] == [2, 8, 32]
    assert found[0].relative_rms > found[1].relative_rms > found[2].relative_rms > 0
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert drift_by_batch_size(chain().eval(), [images(8)]) == ()
    batches = [images(20), images(20, size=12), images(20)]
    assert [drift.samples for drift in drift_by_batch_size(model, batches)] == [40, 40, 32]
    x = torch.cat([batches[0], batches[2]])
    # Each group by itself, from the same running statistics.
    groups = [drift_by_batch_size(model, [group])[0].relative_rms for group in x.split(2)]
    with torch.no_grad():
        sizes = [float(model(group).double().square().sum()) for group in x.split(2)]
    wanted = (sum(r * r * size for r, size in zip(groups, sizes, strict=True)) / sum(sizes)) ** 0.5
    assert drift_by_batch_size(model, batches)[0].relative_rms == pytest.approx(wanted, rel=1e-6)
    report = verify(chain().eval(), model, [images(8)], training=True)
    assert [drift.batch_size for drift in report.drift] == [2, 8]


def test_the_worst_sample_of_each_kind_is_kept() -> None:
    model = Residual().eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head.weight[0, 0] += 0.5
    worst: dict[str, Tensor] = {}
    batches = [images(4), images(3)]
    verify_labelled(model, other, batches, Checks(worst=worst))
    assert {"given", "random", "huge"} <= worst.keys()
    with torch.no_grad():
        errors = [(model(x) - other(x)).abs().amax(1) for x in batches]
        kept = (model(worst["given"]) - other(worst["given"])).abs().max()
    assert float(kept) == pytest.approx(float(torch.cat(errors).max()), rel=1e-5)
    # By what is allowed, which is relative to a sample's own outputs: the second is off by less, and by more of it.
    scaled = torch.tensor([[1000.0, 0.0], [0.5, 0.0]])
    off = torch.tensor([[0.01, 0.0], [0.005, 0.0]])
    trials = Trials((Bent(), Bent()), tolerance_for(torch.float32), keep_worst=True)
    trials.add("given", scaled, ([scaled], [scaled + off]))
    assert torch.equal(trials.worst["given"], scaled[1:])
    trials.add("random", scaled, ([scaled], [scaled * torch.tensor([[1.0], [math.nan]])]))
    assert torch.equal(trials.worst["random"], scaled[1:])
    none: dict[str, Tensor] = {}
    verify_labelled(model, model, batches, Checks(worst=none))
    assert not none
