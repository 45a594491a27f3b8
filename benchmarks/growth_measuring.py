"""Processor time of a verb at several points and of its floor, in turn."""

import ctypes
import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial

import torch

from benchmarks.growth_phases import watched
from benchmarks.growth_points import Point
from benchmarks.growth_verbs import Contest, contest
from benchmarks.measuring import rotated, timed

__all__ = ["Measured", "measured", "settle", "turn"]

SHORTEST = 0.5
"""Seconds that a timing takes at least; what is done sooner is repeated."""

WORK, FLOOR = "work", "floor"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


@dataclass(slots=True)
class Measured:
    """Seconds of a verb and of its floor in each round.

    Attributes:
        cpu, floor_cpu: Of processor time, of all threads.
        wall, floor_wall: By the clock.
        phases: Of processor time by phase, in the verb's quickest round.
    """

    cpu: list[float] = field(default_factory=list)
    floor_cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    floor_wall: list[float] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, wall: float, cpu: float, phases: Mapping[str, float]) -> None:
        """Add a round of the work or of the floor, to the nearest millionth of a second."""
        cpus, walls = (self.floor_cpu, self.floor_wall) if name == FLOOR else (self.cpu, self.wall)
        if name == WORK and cpu < min(cpus, default=math.inf):
            self.phases = {phase: round(seconds, 6) for phase, seconds in phases.items()}
        cpus.append(round(cpu, 6))
        walls.append(round(wall, 6))


def settle() -> None:
    """One thread, since those that wait for work count as busy; and memory that is freed stays with the process.

    If it went back to the system, as it does or does not by what ran before, the same work would take up to twice as
    long, to have its pages made anew.
    """
    torch.set_num_threads(1)
    # Another C library has no such settings.
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_TRIM_THRESHOLD, 2**30)
        library.mallopt(M_MMAP_THRESHOLD, 2**25)


def measured(points: Sequence[Point], rounds: int, shortest: float = SHORTEST) -> dict[Point, Measured]:
    """Measure points in this process.

    Each round goes over all of them: what else the machine does changes within minutes, and would bend the line if one
    point had its rounds now and the next one then.
    """
    found = {point: Measured() for point in points}
    with ExitStack() as stack:
        contests = {point: stack.enter_context(contest(point)) for point in points}
        for number in range(rounds):
            for point, works in contests.items():
                turn(works, found[point], number, shortest)
    return found


def turn(
    contest: Contest, found: Measured, number: int, shortest: float, start: Callable[[], object] = gc.collect
) -> None:
    """The work and the floor, each round beginning with the other one.

    Args:
        contest: Both.
        found: Takes the seconds.
        number: Of the round.
        shortest: Seconds that a timing takes at least; 0 to do each once.
        start: Comes before each timing.
    """
    works = dict(zip((WORK, FLOOR), contest, strict=True))
    for name in rotated(list(works), number):
        start()
        wall, cpu, phases = timing(works[name], 1)
        if wall < shortest:
            wall, cpu, phases = timing(works[name], math.ceil(shortest / wall))
        found.add(name, wall, cpu, phases)


def timing(work: Callable[[], object], times: int) -> tuple[float, float, dict[str, float]]:
    """Seconds of one of several repetitions: by the clock, of processor time, and of that by phase."""
    with watched() as phases:
        began = time.process_time()
        wall = timed(partial(repeated, work, times))
        cpu = time.process_time() - began
    return wall / times, cpu / times, {phase: seconds / times for phase, seconds in phases.seconds.items()}


def repeated(work: Callable[[], object], times: int) -> None:
    for _ in range(times):
        work()
