"""Ctrl-C and SIGTERM while `bnretrofit retrofit` runs: the whole output or none, no process left, the right code.

The command runs on the bundled checkpoint and images, in a process that is forked from one that has run it before, so a
round takes as long as the work and not as long as the imports. Ctrl-C goes to all processes, as a terminal sends it,
SIGTERM to the one that runs the command. Half of the rounds decode images in a worker.
"""

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.reliability_damage import Tally
from benchmarks.reliability_edits import dice
from benchmarks.reliability_forks import Fork, forked, processes_of
from benchmarks.reliability_watching import Work
from benchmarks.reliability_workers import findings

__all__ = ["signals"]

Command = Callable[[Path, int], None]
BUNDLED = Path(__file__).parents[1] / "checkpoints"
OLD = b"what was there before"
PATIENCE = 8
"""Seconds in which a worker may find out by itself that nobody waits for it: torch's look every five."""

GOOD = ("130, nothing written", "130, written whole", "0, written whole")


def signals(count: int, jobs: int) -> dict[str, Any]:
    """Signals at random points of the command."""
    ours = Tally(findings(interrupting(retrofit), range(count), jobs=jobs, seconds=60), GOOD)
    theirs = Tally(findings(interrupting(careless), range(max(count // 10, 4)), jobs=jobs, seconds=60), GOOD)
    return {**ours.beyond(GOOD), "control": theirs.beyond(GOOD)}


def retrofit(output: Path, workers: int) -> None:
    """The command, as a shell runs it."""
    from cli.main import main

    images = ("-d", str(BUNDLED / "digits" / "train"), "-n", "8", "-b", "4", "-j", str(workers))
    model = (str(BUNDLED / "digits_vgg11.safetensors"), "-m", "bnretrofit:digits_vgg11")
    main(["retrofit", *model, *images, "-o", str(output), "--overwrite"])


def careless(output: Path, workers: int) -> None:
    """A command that writes straight to its output, and starts a process of which it thinks no more."""
    if workers and os.fork() == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(1.5 * PATIENCE)
        os._exit(0)
    with output.open("wb") as file:
        for _ in range(20):
            file.write(b"piece")
            file.flush()
            time.sleep(0.02)


def interrupting(command: Command) -> Callable[[Path], Work]:
    """What a worker does: run the command, signal it, and look."""

    def begin(folder: Path) -> Work:
        output = folder / "out" / "new.safetensors"
        output.parent.mkdir()
        # Its watching thread would be the second one of a process that is to be forked.
        tqdm.monitor_interval = 0
        known: dict[int, tuple[bytes, float]] = {}

        def one(number: int) -> tuple[str, str]:
            draw, workers, before = dice(number), number % 2, number // 2 % 2 == 0
            sent = (signal.SIGINT, signal.SIGTERM)[number // 4 % 2]
            if workers not in known:
                known[workers] = learnt(command, output, workers)
            whole, duration = known[workers]
            for path in output.parent.iterdir():
                path.unlink()
            if before:
                output.write_bytes(OLD)
            said = folder / "said"
            child = started(command, output, workers, said)
            moment = 0.005 + 1.05 * duration * draw.random()
            child.wait_for_beginning()
            time.sleep(moment)
            told(child, sent)
            code = child.ended()
            what = looked(output, whole, before=before)
            left = orphans(child.process, PATIENCE if command is retrofit else 1)
            text = said.read_text(errors="replace")
            shown = ", a traceback" if "Traceback" in text else ""
            note = f"{sent.name} after {moment:.3f} of {duration:.3f} s, {workers} workers: {text[-200:]}"
            if what == "something torn":
                note = differing(output.read_bytes(), whole) + note
            return f"{code}, {what}{left}{shown}", note

        return one

    return begin


def started(command: Command, output: Path, workers: int, said: Path) -> Fork:
    def before() -> None:
        os.setsid()
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    return forked(partial(command, output, workers), before=before)


def told(child: Fork, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if number == signal.SIGINT:
            os.killpg(child.process, number)
        else:
            os.kill(child.process, number)


def learnt(command: Command, output: Path, workers: int) -> tuple[bytes, float]:
    """The whole output, and how long the command takes once it has run in this process."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said"
        if command is retrofit:
            # Here, so that all is imported that it ever imports.
            out, err = contextlib.redirect_stdout, contextlib.redirect_stderr
            with said.open("w") as file, out(file), err(file), contextlib.suppress(SystemExit):
                command(output, workers)
        if len(list(Path("/proc/self/task").iterdir())) > 1:
            raise RuntimeError("a process with threads cannot be forked")
        child = started(command, output, workers, said)
        child.wait_for_beginning()
        start = time.perf_counter()
        if child.ended() != 0:
            raise RuntimeError(f"the command does not run undisturbed: {said.read_text()}")
        duration = time.perf_counter() - start
    return output.read_bytes(), duration


def looked(output: Path, whole: bytes, *, before: bool) -> str:
    """What stands in the folder."""
    there = {path.name: path.read_bytes() if path.is_file() else None for path in output.parent.iterdir()}
    known: dict[str, dict[str, bytes | None]] = {
        "written whole": {output.name: whole},
        "nothing written": {output.name: OLD} if before else {},
    }
    for words, content in known.items():
        if there == content:
            return words
    return "something torn" if set(there) <= {output.name} else "something left"


def differing(there: bytes, whole: bytes) -> str:
    """Where an output is not as it should be."""
    at = next((at for at, (a, b) in enumerate(zip(there, whole, strict=False)) if a != b), min(len(there), len(whole)))
    around = slice(max(at - 60, 0), at + 60)
    return f"{len(there)} bytes, not {len(whole)}; at {at} {there[around]!r}, not {whole[around]!r}; "


def orphans(session: int, patience: float) -> str:
    """Whether a process of its session lives on; if so, it is ended."""
    until = time.monotonic() + patience
    while left := processes_of(session):
        if time.monotonic() > until:
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return ", a process left"
        time.sleep(0.02)
    return ""
