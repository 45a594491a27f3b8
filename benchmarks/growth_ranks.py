"""Calibration by several processes, each on its share of the images: the processor time of the busiest."""

import datetime as dt
import json
import tempfile
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

from torch import distributed

from benchmarks.growth_measuring import Measured, settle, turn
from benchmarks.growth_points import Point
from benchmarks.growth_verbs import calibration

__all__ = ["across_ranks"]


def across_ranks(point: Point, rounds: int) -> Measured:
    """Measure calibration in as many processes as the point has ranks, one or more, joined by gloo."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        processes = [context.Process(target=share, args=(rank, point, rounds, place)) for rank in range(point.ranks)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise RuntimeError(f"a rank of {point} has failed")
        found = [Measured(**json.loads((place / f"{rank}.json").read_text())) for rank in range(point.ranks)]
    # The one that is busy longest in its best round is what all wait for.
    return max(found, key=lambda each: min(each.cpu))


def share(rank: int, point: Point, rounds: int, place: Path) -> None:
    """What one of the processes does."""
    settle()
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{place / 'meeting'}",
        rank=rank,
        world_size=point.ranks,
        timeout=dt.timedelta(minutes=5),
    )
    with calibration(point, rank, across_ranks=True) as contest:
        found = Measured()
        for number in range(rounds):
            # Once on each rank, however long it takes there: all must come to every exchange.
            turn(contest, found, number, 0, start=distributed.barrier)
    (place / f"{rank}.json").write_text(json.dumps(asdict(found)))
    distributed.destroy_process_group()
