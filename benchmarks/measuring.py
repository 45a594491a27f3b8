"""What the benchmarks share: interleaved rounds, ratios, the machine in words, a table, a line of results."""

import json
import os
import platform
import shlex
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "both_clocks",
    "load",
    "machine",
    "peak_memory",
    "ratios",
    "record",
    "reset_peak",
    "resident",
    "rotated",
    "table",
    "timed",
]

RESULTS = Path(__file__).parent / "results"
STATUS = Path("/proc/self/status")


def machine() -> dict[str, Any]:
    """The machine and the versions a figure depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def load() -> list[float]:
    """Load average of 1, 5 and 15 minutes: above the number of cores at work here, the figures are disturbed."""
    return [round(value, 2) for value in os.getloadavg()]


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def both_clocks(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall clock, and of processor time, which other work on the machine disturbs less."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return round(time.perf_counter() - wall, 3), round(time.process_time() - cpu, 3)


def rotated(names: Sequence[str], round_number: int) -> list[str]:
    """The contenders, each round beginning with another one."""
    first = round_number % len(names)
    return [*names[first:], *names[:first]]


def ratios(times: Sequence[float], over: Sequence[float]) -> dict[str, float]:
    """Least and median of the ratios within each round, so that what slows a whole round down cancels."""
    each = [mine / other for mine, other in zip(times, over, strict=True)]
    return {"min": round(min(each), 3), "median": round(statistics.median(each), 3)}


def resident() -> int | None:
    """Bytes of this process in memory, mapped files included; None where the system does not say."""
    return _status("VmRSS")


def peak_memory() -> int | None:
    """The most bytes since `reset_peak` or the start. Unlike ru_maxrss it does not begin with the parent's peak."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Begin a new peak."""
    if STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int | None:
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of text: the first column to the left, all others to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(row))
        for row in (list(zip(line, widths, strict=True)) for line in cells)
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def record(name: str, arguments: Sequence[str], result: Mapping[str, Any]) -> None:
    """Append one JSON line to benchmarks/results/NAME.jsonl, with the command that made it, and print that command."""
    command = shlex.join(["python", "-m", f"benchmarks.{name}", *arguments])
    line = {"date": datetime.now(UTC).date().isoformat(), "command": command, "machine": machine(), **result}
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"\n{command}\nwritten to benchmarks/results/{name}.jsonl; load average {load()}")
