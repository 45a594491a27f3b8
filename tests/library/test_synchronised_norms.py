"""Norms that use the statistics of all GPUs: what they become, what they compute, and that they come back."""

from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn

from bnretrofit.norms import ChannelsLastBatchNorm1d, foreign_norms, running_norms
from bnretrofit.training.norm_mode import momentum_spread, synchronised, unsynchronised

KINDS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "BatchNorm1d": (nn.BatchNorm1d(4), (6, 4)),
    "BatchNorm2d": (nn.BatchNorm2d(4), (6, 4, 3, 3)),
    "BatchNorm3d": (nn.BatchNorm3d(4), (6, 4, 2, 3, 3)),
    "ChannelsLastBatchNorm1d": (ChannelsLastBatchNorm1d(4), (6, 5, 4)),
    "BatchNormAct2d": (BatchNormAct2d(4), (6, 4, 3, 3)),
}


class Scaled(nn.BatchNorm2d):
    """A norm of somebody's own: nobody knows what its synchronised kin would do."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Module's own name for it
        return 2.0 * super().forward(input)


@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_is_synchronised_for_a_while_and_computes_the_same(kind: str) -> None:
    norm, shape = KINDS[kind]
    norm.train()
    images, plain = torch.randn(shape), type(norm)
    wanted = norm(images)
    attributes = set(vars(norm))
    with synchronised({"norm": norm}):
        assert isinstance(norm, nn.SyncBatchNorm)
        # Alone, without a process group, it is its own world.
        assert torch.equal(norm(images), wanted)
    assert type(norm) is plain
    assert set(vars(norm)) == attributes
    assert torch.equal(norm(images), wanted)


def test_timms_norm_keeps_its_activation() -> None:
    norm: Any = BatchNormAct2d(4).train()
    with synchronised({"norm": norm}):
        assert type(norm) is SyncBatchNormAct
        assert float(norm(torch.randn(6, 4, 3, 3)).detach().min()) == 0.0


def test_a_norm_that_is_synchronised_already_stays_as_it_is() -> None:
    theirs = nn.SyncBatchNorm(4, process_group="a group")
    with synchronised({"first": nn.BatchNorm2d(4), "theirs": theirs}):
        assert theirs.process_group == "a group"
    assert theirs.process_group == "a group"


def test_what_cannot_be_synchronised_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Scaled(4), nn.SyncBatchNorm(4), BatchNormAct2d(4))
    assert list(unsynchronised(model)) == ["2"]
    assert list(running_norms(model)) == ["1", "3", "4"]
    with synchronised(running_norms(model)):
        assert [isinstance(module, nn.SyncBatchNorm) for module in model] == [False, True, False, True, True]


def test_a_synchronised_norm_is_still_one_of_the_running_norms() -> None:
    model = nn.ModuleDict({kind: norm for kind, (norm, _) in KINDS.items()})
    with synchronised(running_norms(model)):
        assert list(running_norms(model)) == list(KINDS)
        assert foreign_norms(model) == {}


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_the_batches_of_a_step_move_statistics_as_far_as_one(momentum: float | None) -> None:
    x = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    once, often = (nn.BatchNorm2d(4, momentum=momentum).double() for _ in range(2))
    once(x)
    with momentum_spread({"norm": often}, 3):
        for _ in range(3):
            often(x)
    assert often.momentum == momentum
    torch.testing.assert_close(often.running_mean, once.running_mean)
    torch.testing.assert_close(often.running_var, once.running_var)


def test_a_norm_comes_back_after_an_error() -> None:
    norm = nn.BatchNorm2d(4)
    with pytest.raises(RuntimeError, match="stopped"), synchronised({"norm": norm}):
        raise RuntimeError("stopped")
    assert type(norm) is nn.BatchNorm2d
