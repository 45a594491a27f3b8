"""Two processes of a group, each of which does its share."""

import datetime as dt
import weakref
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import distributed

RANKS = 2


def process(rank: int, place: Path, work: Callable[[int, Path], None]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{place / 'meeting'}",
        rank=rank,
        world_size=RANKS,
        timeout=dt.timedelta(seconds=60),
    )
    group = weakref.ref(distributed.group.WORLD)
    work(rank, place)
    distributed.destroy_process_group()
    # Whoever still held it would have its threads live on to the interpreter's end, which may abort on them.
    assert group() is None


def together(work: Callable[[int, Path], None], place: Path) -> None:
    context = get_context("spawn")
    processes = [context.Process(target=process, args=(rank, place, work)) for rank in range(RANKS)]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    assert [each.exitcode for each in processes] == [0] * RANKS
