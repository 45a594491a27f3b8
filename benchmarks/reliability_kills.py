"""kill -9 while a file is published over another one: the old or the new, whole, and nothing else left."""

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.reliability_edits import dice
from benchmarks.reliability_forks import alone, forked
from benchmarks.reliability_outputs import SUFFIXES, Output, Writer, naive, output

__all__ = ["kills"]

ELEMENTS = 1 << 20
"""4 MiB: the half of a second that writing takes is for the disk."""


def kills(count: int, _jobs: int) -> dict[str, Any]:
    """Kills at random points between the first step of publishing and the last, and somewhat beyond."""
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        ours = Counter(killed(Path(folder) / "ours", Output.publish, count))
        theirs = Counter(killed(Path(folder) / "theirs", naive, max(count // 5, 20)))
    return {
        "tried": count,
        "faults": count - ours["old"] - ours["new"] + ours["litter"] + ours["blocked"],
        "kinds": dict(ours),
        "control": {"tried": max(count // 5, 20), "faults": theirs["torn"], "kinds": dict(theirs)},
    }


def killed(folder: Path, write: Writer, count: int) -> list[str]:
    """What was found after each kill: the old file, the new one, or a torn one; whether it was midway; what is left."""
    folder.mkdir()
    found: list[str] = []
    per_suffix = {suffix: count // 2 + (count % 2 if suffix == SUFFIXES[0] else 0) for suffix in SUFFIXES}
    for suffix, points in per_suffix.items():
        old, new = (output(folder, suffix, value, ELEMENTS, write) for value in (1.0, 2.0))
        next_one = output(folder, suffix, 3.0, 64)
        path, other = folder / f"model{suffix}", folder / f"other{suffix}"
        duration = usual_duration(partial(write, new, path), partial(path.write_bytes, old.whole))
        draw = dice(points)
        # Most of the time goes into waiting for the disk, when a file that was written straight is whole.
        share = 0.4 if write is naive else 1.1
        for number in range(points):
            path.write_bytes(old.whole)
            child = forked(partial(write, new, path))
            child.wait_for_beginning()
            # Spread evenly, so that no step is passed over, and shifted by chance.
            child.kill_after(share * duration * (number + draw.random()) / points)
            found.append("ended before" if child.ended() == 0 else "midway")
            found += judged(path, old, new)
            if write is naive:
                continue
            left = sorted(each.name for each in folder.iterdir())
            found += ["left behind"] if left != [path.name] else []
            # The next start sweeps, be it for the same output or for another one in the folder.
            again = path if number % 2 else other
            entered = alone(partial(next_one.publish, again)) == 0 and again.read_bytes() == next_one.whole
            found += [] if entered else ["blocked"]
            other.unlink(missing_ok=True)
            found += ["litter"] if sorted(each.name for each in folder.iterdir()) != [path.name] else []
        path.unlink()
    return found


def judged(path: Path, old: Output, new: Output) -> list[str]:
    """Which file stands there."""
    data = path.read_bytes() if path.exists() else b""
    return [{old.whole: "old", new.whole: "new"}.get(data, "torn")]


def usual_duration(write: Callable[[], object], before: Callable[[], object]) -> float:
    """Seconds from the beginning to the end of a process that writes, as a rule."""
    times = []
    for _ in range(7):
        before()
        child = forked(write)
        child.wait_for_beginning()
        start = time.perf_counter()
        child.ended()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
