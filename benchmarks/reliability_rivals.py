"""Two processes that write one output at the same moment, and others that read it: always a whole file, of one writer.

A round begins with an output or without one, and with or without leave to replace it. Each writer either wins, then or
later, or is told that another process is writing, or that the output exists.
"""

import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability_bases import same
from benchmarks.reliability_forks import forked
from benchmarks.reliability_outputs import SUFFIXES, Output, Writer, naive, output
from bnretrofit import RetrofitError, checkpoints
from bnretrofit.errors import UsageError

__all__ = ["rivals"]

ELEMENTS = 1 << 17


def rivals(count: int, jobs: int) -> dict[str, Any]:
    """Rounds of two writers."""
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        ours = Counter[str]()
        theirs = Counter[str]()
        for suffix in SUFFIXES:
            ours += raced(Path(folder) / f"ours{suffix}", suffix, Output.publish, count // 2, jobs)
            theirs += raced(Path(folder) / f"theirs{suffix}", suffix, naive, max(count // 20, 3), jobs)
    return {
        "tried": count // 2 * 2,
        "reads": sum(number for kind, number in ours.items() if kind.startswith("read: whole")),
        "faults": faults(ours),
        "kinds": dict(ours),
        # Of rounds and of what readers saw: both are judged.
        "control": {"tried": theirs.total(), "faults": faults(theirs), "kinds": dict(theirs)},
    }


def faults(kinds: Counter[str]) -> int:
    return sum(number for kind, number in kinds.items() if kind.startswith("fault"))


def raced(folder: Path, suffix: str, write: Writer, count: int, readers: int) -> Counter[str]:
    """What came of the rounds, for the writers and for the readers."""
    folder.mkdir()
    found: Counter[str] = Counter()
    path = folder / f"model{suffix}"
    known = [output(folder, suffix, value, ELEMENTS, write) for value in (1.0, 2.0, 3.0)]
    with reading(path, known, found, readers):
        for number in range(count):
            found.update(one_round(path, known, write, number))
    return found


@dataclass(frozen=True, slots=True)
class Round:
    """What a round begins with: leave to replace, and something to be replaced."""

    replacing: bool
    beginning: bool


def one_round(path: Path, known: list[Output], write: Writer, number: int) -> list[str]:
    """Let two writers go at once; what came of it."""
    this = Round(number % 2 == 0, number % 4 < 2)
    if this.beginning:
        put(path, known[0])
    else:
        path.unlink(missing_ok=True)
    gate, opening = os.pipe()

    def enter(one: Output) -> None:
        os.close(opening)
        # The end of the pipe is seen by both at once.
        os.read(gate, 1)
        if write is naive:
            write(one, path)
        else:
            one.publish(path, overwrite=this.replacing)

    writers = [forked(partial(enter, one)) for one in known[1:]]
    for writer in writers:
        writer.wait_for_beginning()
    os.close(opening)
    codes = [writer.ended() for writer in writers]
    os.close(gate)
    found = judged(codes, path, known)
    if write is not naive:
        found += broken(this, codes.count(0), path)
    return found or [("nobody", "one", "both, one after the other")[codes.count(0)] + " wrote"]


def put(path: Path, one: Output) -> None:
    """The output before, in one step: readers are at it already."""
    before = path.with_name("before")
    before.write_bytes(one.whole)
    before.replace(path)


def judged(codes: list[int], path: Path, known: list[Output]) -> list[str]:
    """What no writer may do, with leave or without."""
    found = [] if set(codes) <= {0, UsageError.exit_code} else [f"fault: exit codes {codes}"]
    there = path.read_bytes() if path.exists() else b""
    if there not in [one.whole for one in known]:
        return [*found, "fault: the output is not whole"]
    won = [one.whole for one, code in zip(known[1:], codes, strict=True) if code == 0]
    return [*found, "fault: the output is of no winner"] if won and there not in won else found


def broken(this: Round, winners: int, path: Path) -> list[str]:
    """What was promised otherwise."""
    found = [] if [each.name for each in path.parent.iterdir()] == [path.name] else ["fault: something is left"]
    if this.beginning and not this.replacing:
        return [*found, "fault: replaced without leave"] if winners else found
    least, most = 1, 2 if this.replacing else 1
    return found if least <= winners <= most else [*found, f"fault: {winners} winners"]


@contextmanager
def reading(path: Path, known: list[Output], found: Counter[str], readers: int) -> Iterator[None]:
    """Let others read the output all the while; what they saw is added at the end."""
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        notes = [Path(folder) / str(number) for number in range(readers)]
        stop = Path(folder) / "stop"
        forks = [forked(partial(read_on, path, known, note, stop)) for note in notes]
        try:
            yield
        finally:
            stop.touch()
            for fork in forks:
                fork.ended()
            for note in notes:
                found.update(json.loads(note.read_text()))


def read_on(path: Path, known: list[Output], note: Path, stop: Path) -> None:
    """Read the output until told to stop."""
    torch.set_num_threads(1)
    seen: Counter[str] = Counter()
    by_bytes = {one.whole: one for one in known}
    by_value = {float(one.header["value"]): one for one in known}
    while not stop.exists():
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            seen["read: not there yet"] += 1
            time.sleep(0.001)
        else:
            seen["read: whole bytes" if data in by_bytes else "fault: torn bytes were read"] += 1
        seen[seen_by_us(path, by_value)] += 1
    note.write_text(json.dumps(seen))


def seen_by_us(path: Path, known: dict[float, Output]) -> str:
    """How bnretrofit reads it: all that it tells of the file has to be of one writer."""
    try:
        found = checkpoints.read(path)
        digest = found.digest.result()
    except RetrofitError as error:
        absent = error.why == "there is no such file"
        return "read: not there yet" if absent else f"fault: refused to a reader: {error.what}, {error.why}"
    except BaseException as error:  # noqa: BLE001 - counted, whatever it is
        return f"fault: {type(error).__name__} to a reader: {error}"
    one = known.get(float(found.tensors["layer0.weight"][0]))
    if one is None or not same(found.tensors, one.tensors):
        return "fault: torn tensors were read"
    if found.header is not None and found.header != one.header:
        return "fault: the header of one and the tensors of the other"
    if digest != hashlib.sha256(one.whole).hexdigest():
        return "fault: the digest of one and the tensors of the other"
    return "read: whole checkpoint"
