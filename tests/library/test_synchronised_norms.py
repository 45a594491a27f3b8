"""Norms that use the statistics of all GPUs: what they become, what they compute, and that they come back."""

from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn

from bnretrofit.norms import ChannelsLastBatchNorm1d
from bnretrofit.training.norm_mode import synchronised

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
    with synchronised({"norm": norm}) as left:
        assert left == []
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


def test_what_cannot_be_synchronised_is_named() -> None:
    theirs = nn.SyncBatchNorm(4, process_group="a group")
    norms: dict[str, nn.Module] = {"first": nn.BatchNorm2d(4), "own": Scaled(4), "synchronised": theirs}
    with synchronised(norms) as left:
        assert left == ["own"]
        assert type(norms["own"]) is Scaled
        assert theirs.process_group == "a group"
    assert [type(norm) for norm in norms.values()] == [nn.BatchNorm2d, Scaled, nn.SyncBatchNorm]
    assert theirs.process_group == "a group"


def test_a_norm_comes_back_after_an_error() -> None:
    norm = nn.BatchNorm2d(4)
    with pytest.raises(RuntimeError, match="stopped"), synchronised({"norm": norm}):
        raise RuntimeError("stopped")
    assert type(norm) is nn.BatchNorm2d
