"""A disk that is full after so many bytes: the output before stays, and the error is one of resources."""

import resource
import signal
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.reliability_forks import forked
from benchmarks.reliability_outputs import SUFFIXES, Output, Writer, naive, output

__all__ = ["disks"]

ELEMENTS = 1 << 16


def disks(count: int, _jobs: int) -> dict[str, Any]:
    """Files that cannot grow beyond a limit, at limits from nothing to the whole output."""
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        ours = Counter(filled(Path(folder) / "ours", Output.publish, count))
        theirs = Counter(filled(Path(folder) / "theirs", naive, max(count // 5, 10)))
    return {
        "tried": count,
        "faults": ours.total() - ours["old kept, exit code 5"] - ours["written whole"],
        "kinds": dict(ours),
        "control": {
            "tried": max(count // 5, 10),
            "faults": sum(number for kind, number in theirs.items() if kind.startswith("old lost")),
            "kinds": dict(theirs),
        },
    }


def filled(folder: Path, write: Writer, count: int) -> list[str]:
    """What came of writing at each limit."""
    folder.mkdir()
    found = []
    for place, suffix in enumerate(SUFFIXES):
        old, new = (output(folder, suffix, value, ELEMENTS, write) for value in (1.0, 2.0))
        path = folder / f"model{suffix}"
        points = count // 2 + (count % 2 if place == 0 else 0)
        # The last two: one byte short, and room enough.
        limits = [len(new.whole) * number // (points - 2) for number in range(points - 2)]
        for limit in (*limits, len(new.whole) - 1, len(new.whole)):
            path.write_bytes(old.whole)
            code = forked(partial(write, new, path), before=partial(small, limit)).ended()
            whole = path.read_bytes()
            kept = "old kept" if whole == old.whole else "old lost"
            found.append("written whole" if code == 0 and whole == new.whole else f"{kept}, exit code {code}")
            if write is not naive and [each.name for each in folder.iterdir()] != [path.name]:
                found.append("something left")
        path.unlink()
    return found


def small(limit: int) -> None:
    """Let no file of this process grow beyond this."""
    # Otherwise the system ends the process: a full disk does not.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
