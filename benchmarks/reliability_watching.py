"""The inside of a worker: one case after the other, each watched for its time, its memory and what it raises."""

import json
import os
import resource
import signal
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import peak_memory, reset_peak, resident

__all__ = ["BOUND", "HARMFUL", "WAITING", "Work", "out_of_memory", "work_through"]

Work = Callable[[int], tuple[str, str]]
"""The number of a case -> what came of it in a word, and a sentence."""

HARMFUL = ("crash", "hang", "memory", "foreign", "silent")
"""What must never come of a case: a dead process, no end, too much memory, an exception of another family, or a change
that a checksum tells of and nobody else."""

BOUND = 512 << 20
"""Bytes that a case may take besides what it says of itself."""

WAITING = 4
"""How much longer than its own time a case may take on the clock: the machine may be busy."""

ROOM = 8 << 30
"""Address space of a worker, so that a bomb ends in it and not in the machine."""


def work_through(
    begin: Callable[[Path], Work], numbers: list[int], folder: Path, seconds: float, bound: int, pipe: int
) -> None:
    """Do cases, and tell of each as it is done; the arguments are those of `findings`, and a pipe to tell them by."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_RDWR), 2)
    os.dup2(2, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The soft limit: what needs more room lifts it.
    resource.setrlimit(resource.RLIMIT_AS, (ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
    try:
        work = begin(folder)
    except BaseException:  # noqa: BLE001 - told to the parent, whatever it is
        _tell(pipe, -1, "broken", traceback.format_exc()[-2000:])
        return
    for number in numbers:
        # The processor's time, so that a busy machine is no fault; and the clock's, for what waits.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds * WAITING)
        reset_peak()
        before = resident() or 0
        kind, note = _done(work, number)
        taken = (peak_memory() or 0) - before
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if taken > bound:
            kind, note = "memory", f"{taken >> 20} MiB; {kind}: {note}"
        _tell(pipe, number, kind, note[:300], taken)


def _tell(pipe: int, *finding: object) -> None:
    # Below PIPE_BUF, so it is written at once.
    line = json.dumps(finding).encode()
    os.write(pipe, len(line).to_bytes(4, "little") + line)


def _done(work: Work, number: int) -> tuple[str, str]:
    try:
        return work(number)
    except BaseException as error:  # noqa: BLE001 - a panic of Rust is none of Exception
        return "memory" if out_of_memory(error) else "foreign", f"{type(error).__name__}: {error}"


def out_of_memory(error: BaseException | None) -> bool:
    """Whether memory that was not there had been asked for, whatever became of the error since."""
    while error is not None:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
