"""One piece of work in a forked process: to be killed, starved or raced, and thrown away."""

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bnretrofit import RetrofitError

__all__ = ["Fork", "alone", "forked", "processes_of"]


@dataclass(frozen=True, slots=True)
class Fork:
    """A process that has been forked.

    Attributes:
        process: Its id.
        begun: A pipe that can be read once it is about to begin.
    """

    process: int
    begun: int

    def wait_for_beginning(self) -> None:
        select.select([self.begun], [], [], 60)

    def kill_after(self, seconds: float, number: int = signal.SIGKILL) -> None:
        """Sleep, and send it a signal."""
        # Shorter than what a sleep is late by, so it is waited out.
        until = time.perf_counter() + seconds
        if seconds > 0.002:
            time.sleep(seconds - 0.002)
        while time.perf_counter() < until:
            pass
        with suppress(ProcessLookupError):
            os.kill(self.process, number)

    def ended(self) -> int:
        """Wait for it: its exit code, or the signal that ended it, below zero."""
        _, status = os.waitpid(self.process, 0)
        os.close(self.begun)
        return os.waitstatus_to_exitcode(status)


def forked(work: Callable[[], object], *, before: Callable[[], object] = lambda: None) -> Fork:
    """Do work in a process of its own, which ends with the code of its error: 0 without, 1 for one not ours.

    Args:
        work: What it does.
        before: Done first, before it says that it begins.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        code = 1
        try:
            before()
            os.write(writing, b".")
            work()
            code = 0
        except RetrofitError as error:
            code = error.exit_code
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        finally:
            os._exit(code)
    os.close(writing)
    return Fork(process, reading)


def alone(work: Callable[[], object]) -> int:
    """Do work in a process of its own, to its end."""
    return forked(work).ended()


def processes_of(session: int) -> list[int]:
    """The processes that live in a session, those that have ended and are not waited for left out."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                # After the name, which may hold anything: the state, the parent, the group, the session.
                state, _, _, number, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(number) == session and state != "Z":
                    found.append(int(folder.name))
    return found
