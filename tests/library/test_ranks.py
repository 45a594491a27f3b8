"""Statistics that several processes measure together, each on its own share of the samples."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bnretrofit
from bnretrofit.errors import InputRejectedError, ResourceError, UsageError
from tests.library.two_ranks import RANKS, together

BOUND = 1e-12


def network() -> nn.Module:
    torch.manual_seed(0)
    conv = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 6, 3, stride=2), nn.ReLU())
    return nn.Sequential(*conv, nn.Flatten(), nn.Linear(96, 10)).eval()


def samples() -> list[Tensor]:
    """Of unequal sizes: how many each rank has must not matter."""
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, 10, 10, generator=draw) * size for size in (4, 1, 7, 2, 3)]


def measured(rank: int, stride: int, *, across_ranks: bool) -> dict[str, bnretrofit.ChannelStats]:
    model = network()
    plan = bnretrofit.make_plan(model, samples()[0])
    return bnretrofit.calibrate(model, plan, samples()[rank::stride], across_ranks=across_ranks)


def share(rank: int, place: Path) -> None:
    """What one of the processes does."""
    found = measured(rank, RANKS, across_ranks=True)
    torch.save({name: (stats.count, stats.mean, stats.var) for name, stats in found.items()}, place / f"{rank}.pt")


def failing(rank: int, place: Path) -> None:
    """The second process has images of another shape."""
    model = network()
    plan = bnretrofit.make_plan(model, samples()[0])
    mine = torch.full((2, 5, 10, 10), 1.0) if rank else samples()[0]
    try:
        bnretrofit.calibrate(model, plan, [mine], across_ranks=True)
    except InputRejectedError as error:
        (place / f"{rank}.txt").write_text(str(error))


def exhausted(rank: int, place: Path) -> None:
    """The second process has no memory."""
    model = network()
    plan = bnretrofit.make_plan(model, samples()[0])

    def batches() -> Iterator[Tensor]:
        yield samples()[0]
        if rank:
            raise MemoryError("no memory is left")

    try:
        bnretrofit.calibrate(model, plan, batches(), across_ranks=True)
    except (MemoryError, ResourceError) as error:
        (place / f"{rank}.txt").write_text(str(error))


def test_two_ranks_measure_what_one_measures(tmp_path: Path) -> None:
    together(share, tmp_path)
    alone = measured(0, 1, across_ranks=False)
    assert len(alone) == 2
    for rank in range(RANKS):
        for name, (count, mean, var) in torch.load(tmp_path / f"{rank}.pt").items():
            known = alone[name]
            assert count == known.count
            assert torch.allclose(mean, known.mean, rtol=BOUND, atol=0), name
            assert torch.allclose(var, known.var, rtol=BOUND, atol=0), name


def test_half_of_the_samples_are_not_taken_for_all() -> None:
    """The comparison above sees a rank that is left out."""
    half, whole = measured(0, RANKS, across_ranks=False), measured(0, 1, across_ranks=False)
    assert not any(torch.allclose(half[name].var, whole[name].var, rtol=1e-3, atol=0) for name in whole)


def test_a_rank_that_fails_does_not_leave_the_others_waiting(tmp_path: Path) -> None:
    together(failing, tmp_path)
    assert "rank 1 could not measure its share" in (tmp_path / "0.txt").read_text()
    assert "does not take the batch" in (tmp_path / "1.txt").read_text()


def test_a_rank_without_memory_ends_the_others_for_the_same_reason(tmp_path: Path) -> None:
    together(exhausted, tmp_path)
    told = (tmp_path / "0.txt").read_text()
    assert "rank 1 could not measure its share: ResourceError: memory ran out: no memory is left" in told
    assert (tmp_path / "1.txt").read_text() == "no memory is left"


def test_without_ranks_there_is_nothing_to_join() -> None:
    with pytest.raises(UsageError, match="no ranks"):
        measured(0, 1, across_ranks=True)
