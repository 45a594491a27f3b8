"""Hostile checkpoints: what of them is run, and what they take, read by us and by readers that trust."""

import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.reliability_bombs import BOMBS
from benchmarks.reliability_containers import CONTAINERS, opened
from benchmarks.reliability_damage import Tally, admitted, outcome
from benchmarks.reliability_payloads import PAYLOADS, Target
from benchmarks.reliability_watching import HARMFUL, Work
from benchmarks.reliability_workers import findings

__all__ = ["hostile"]

Reader = Callable[[Path, Path], tuple[str, str]]
EXECUTED = "executed"
CASES = [*product(PAYLOADS, CONTAINERS)]
BOMB_CASES = [*product(BOMBS, CONTAINERS)]


def hostile(count: int, jobs: int) -> dict[str, Any]:
    """Payloads that run something and bombs, each in five containers: none runs, none takes more than the bounds."""
    cases, bombs = spread(len(CASES), count), spread(len(BOMB_CASES), count)
    ours = Tally(findings(executing(ours_reading), cases, jobs=jobs))
    held = Tally(findings(bombing(ours_reading), bombs, jobs=jobs))
    # What trusts dies of some of them, so it has a process for each.
    theirs = Tally(findings(executing(trusting), cases, jobs=jobs, seconds=60))
    blown = Tally(
        findings(bombing(trusting), bombs[:: max(len(bombs) // max(count // 5, 5), 1)], jobs=jobs, seconds=60)
    )
    return {
        "tried": ours.tried + held.tried,
        "faults": ours.total((*HARMFUL, EXECUTED, "same", "other")) + held.total(HARMFUL),
        "payloads": {"different": len({CASES[n][0] for n in cases}), "tried": ours.tried, **ours.document()},
        "bombs": {"different": len({BOMB_CASES[n][0] for n in bombs}), "tried": held.tried, **held.document()},
        "control": {
            "tried": theirs.tried + blown.tried,
            "faults": theirs.total((EXECUTED,)) + blown.total(HARMFUL),
            "executed": theirs.total((EXECUTED,)),
            "payloads": theirs.tried,
            "blown": blown.total(HARMFUL),
            "bombs": blown.tried,
            "never executed": sorted({CASES[n][0] for n in cases} - {CASES[n][0] for n in theirs.numbers(EXECUTED)}),
        },
    }


def spread(total: int, count: int) -> range:
    """So many of all, evenly; the step is no multiple of five, the number of containers."""
    step = max(total // count, 1)
    return range(0, total, step + 1 if step % 5 == 0 else step)


def ours_reading(path: Path, _marker: Path) -> tuple[str, str]:
    return outcome(admitted, path, {})


def trusting(path: Path, marker: Path) -> tuple[str, str]:
    """In a process that is thrown away; what it did is seen by what it left."""
    process = os.fork()
    if process == 0:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            signal.setitimer(signal.ITIMER_REAL, 5)
            os.setsid()
            os.dup2(2, 1)
            opened(path)
            os._exit(0)
        except MemoryError:
            os._exit(3)
        except BaseException as error:  # noqa: BLE001 - SystemExit among them
            os._exit(3 if "allocate memory" in str(error) else 2)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if marker.exists() or marker.is_symlink():
        return EXECUTED, ""
    return {-signal.SIGALRM: "hang", 3: "memory"}.get(code, "crash" if code < 0 else "refused"), f"ended with {code}"


def executing(read: Reader) -> Callable[[Path], Work]:
    def begin(folder: Path) -> Work:
        def one(number: int) -> tuple[str, str]:
            name, container = CASES[number]
            place = fresh(folder / str(number))
            target = Target(place / "marker", place)
            target.prepare()
            path = CONTAINERS[container](place, PAYLOADS[name](target))
            kind, note = read(path, target.marker)
            # Some run their command beside.
            time.sleep(0.02)
            ran = target.marker.exists() or target.marker.is_symlink()
            shutil.rmtree(place)
            return (EXECUTED if ran else kind), f"{name}, {container}: {note}"

        return one

    return begin


def bombing(read: Reader) -> Callable[[Path], Work]:
    def begin(folder: Path) -> Work:
        def one(number: int) -> tuple[str, str]:
            name, container = BOMB_CASES[number]
            place = fresh(folder / str(number))
            kind, note = read(CONTAINERS[container](place, BOMBS[name]()), place / "marker")
            shutil.rmtree(place)
            return kind, f"{name}, {container}: {note}"

        return one

    return begin


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
