"""Norms that no layer can take under frozen statistics: they run by themselves, each with its reason."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnretrofit.training.frozen_statistics import frozen_statistics
from tests.library.frozen_checks import assert_like_eval_mode
from tests.library.networks import ReadBesides, StandardisedConv, TwoNorms, images, reparametrised
from tests.library.observing import part, randomised


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


class HiddenInTraining(OtherInTraining):
    """The same in an autocast region, which the graph holds as one call."""

    def forward(self, x: Tensor) -> Any:
        if not self.training:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x)


@pytest.mark.parametrize(
    ("kind", "reason"), [(OtherInTraining, "also read elsewhere"), (HiddenInTraining, "does not show it")]
)
def test_what_training_mode_alone_does_is_seen_or_not_taken_for_granted(
    kind: type[OtherInTraining], reason: str
) -> None:
    model, x = randomised(kind()).train(), images()
    with frozen_statistics(model, x) as found:
        got = model(x)
    assert reason in found.leaves[0].reason
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


def test_a_norm_that_counts_its_batches_is_taken_like_others() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.ReLU()))
    with frozen_statistics(model, images(2)) as found:
        assert [(pair.norm, pair.layer) for pair in found.absorbed] == [("1", "0")]
    assert part(model, "1").momentum is None
    assert_like_eval_mode(model, images(3))
