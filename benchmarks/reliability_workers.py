"""Cases by the thousand in forked workers: a case that crashes, hangs or swallows memory is named, the others go on.

A worker does its cases one after the other in one process, as a server would, so what one case leaves behind is met by
the next.
"""

import json
import os
import selectors
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.reliability_watching import BOUND, WAITING, Work, work_through

__all__ = ["Finding", "findings"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a case.

    Attributes:
        number: The case.
        kind: In a word: what the work says, or one of `reliability_watching.HARMFUL`.
        note: In a sentence.
        taken: Most resident memory while it ran, in bytes above what was resident before.
    """

    number: int
    kind: str
    note: str
    taken: int = 0


def findings(
    begin: Callable[[Path], Work], numbers: Sequence[int], *, jobs: int = 2, seconds: float = 10, bound: int = BOUND
) -> Iterator[Finding]:
    """Do cases in workers.

    Args:
        begin: Called in each worker, with a scratch folder; gives what does a case.
        numbers: The cases.
        jobs: Workers at a time.
        seconds: How long a case may take, of the processor's time.
        bound: Bytes that it may take.

    Yields:
        What came of each, as it comes.
    """
    # Forked children own no thread but this one: nothing here may have started torch's.
    torch.set_num_threads(1)
    scratch = Path(tempfile.mkdtemp(prefix="reliability-"))
    try:
        with selectors.DefaultSelector() as selector:
            for job in range(min(jobs, len(numbers))):
                _start(selector, begin, deque(numbers[job::jobs]), scratch / str(job), seconds, bound)
            while selector.get_map():
                for key, _ in selector.select():
                    waiting, process, folder = key.data
                    file: _Lines = key.fileobj  # type: ignore[assignment]
                    if line := file.readline():
                        found = Finding(*json.loads(line))
                        if found.number < 0:
                            raise RuntimeError(found.note)
                        yield found
                        waiting.popleft()
                        continue
                    selector.unregister(file)
                    file.close()
                    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                    if waiting:
                        hung = status in (-signal.SIGALRM, -signal.SIGPROF)
                        note = (
                            f"no end within {seconds} s of its own, {WAITING}-fold on the clock"
                            if hung
                            else f"the process ended with {status}"
                        )
                        yield Finding(waiting.popleft(), "hang" if hung else "crash", note)
                        _start(selector, begin, waiting, folder, seconds, bound)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _start(
    selector: selectors.BaseSelector,
    begin: Callable[[Path], Work],
    waiting: deque[int],
    folder: Path,
    seconds: float,
    bound: int,
) -> None:
    if not waiting:
        return
    reading, writing = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        os.close(reading)
        code = 1
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            work_through(begin, list(waiting), folder, seconds, bound, writing)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    # One line is read for each time the pipe is ready, so none may wait in a buffer.
    selector.register(_Lines(reading), selectors.EVENT_READ, (waiting, process, folder))


class _Lines:
    """A pipe that is read line by line, without taking more from it than the line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def readline(self) -> str:
        length = os.read(self._descriptor, 4)
        return os.read(self._descriptor, int.from_bytes(length, "little")).decode() if length else ""

    def close(self) -> None:
        os.close(self._descriptor)
