"""A command in a process of its own, ended when it takes too long or too much memory."""

import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Ending", "watched"]

INTERVAL = 0.1
"""Seconds between two looks at the process: a network is built at less than a GiB in that time."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended.

    Attributes:
        outcome: "done", "crash", "time", "memory", or "stopped" because the caller wished so.
        reason: A sentence; None if it is done.
        lines: What it wrote to stdout.
        seconds: How long it ran.
    """

    outcome: str
    reason: str | None
    lines: list[str]
    seconds: float


def watched(
    command: Sequence[str],
    *,
    seconds: float,
    memory: float,
    stop: threading.Event | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ending:
    """Run a command to its end, or to the bound that it exceeds first.

    Args:
        command: The program and its arguments.
        seconds: Wall clock.
        memory: Resident bytes, mapped files included; not bounded where the system does not tell of other processes.
        stop: Ends it when set.
        environment: Its environment; None for this process's own.
    """
    # Files rather than pipes: nobody need read them while it runs, however much it writes.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)
        try:
            outcome, reason = _end(process, start + seconds, memory, stop or threading.Event())
        finally:
            process.kill()
            process.wait()
        took = time.monotonic() - start
        if outcome == "time":
            reason = f"not done after {seconds:g} s"
        lines = _lines(out)
        return Ending(outcome, _crash(process.returncode, err) if outcome == "crash" else reason, lines, took)


def _end(
    process: subprocess.Popen[bytes], deadline: float, memory: float, stop: threading.Event
) -> tuple[str, str | None]:
    """Wait for what comes first."""
    while True:
        try:
            return ("done" if process.wait(INTERVAL) == 0 else "crash"), None
        except subprocess.TimeoutExpired:
            pass
        if stop.is_set():
            return "stopped", "stopped"
        if time.monotonic() > deadline:
            return "time", None
        if (held := _resident(process.pid)) > memory:
            return "memory", f"{held / 2**30:.2f} GiB resident, the bound is {memory / 2**30:g}"


def _resident(pid: int) -> int:
    """Bytes of a process in memory; 0 once it is gone, or where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)


def _crash(status: int, err: IO[str]) -> str:
    name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    said = _lines(err)
    return f"{name}: {said[-1]}" if said else name


def _lines(file: IO[str]) -> list[str]:
    file.seek(0)
    return [line for line in file.read().splitlines() if line.strip()]
