"""What files and moments can do to bnretrofit: damage, malice, kills, full disks, rivals and signals, by the thousand.

    python -m benchmarks.reliability

Every section leaves a line in benchmarks/results/reliability.jsonl and can be run again by itself; each has a control,
the same done to code that takes no care, which shows that a fault would have been seen. At the end docs/reliability.md
is written from these lines. The command exits 1 where a fault was found, or where a control found none.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import RESULTS, load, machine
from benchmarks.reliability_damage import flips, mutations, replay
from benchmarks.reliability_disks import disks
from benchmarks.reliability_hostile import hostile
from benchmarks.reliability_kills import kills
from benchmarks.reliability_page import PAGE, page
from benchmarks.reliability_rivals import rivals
from benchmarks.reliability_signals import signals
from benchmarks.reliability_trainings import trainings

__all__ = ["SECTIONS", "sound"]


@dataclass(frozen=True, slots=True)
class Section:
    """What is done, how often, and how often among the tests."""

    work: Callable[[int, int], dict[str, Any]]
    cases: int
    few: int


SECTIONS = {
    "mutations": Section(mutations, 200_000, 300),
    "hostile": Section(hostile, 1_000, 16),
    "flips": Section(flips, 10_000, 200),
    "kills": Section(kills, 1_000, 12),
    "disks": Section(disks, 300, 12),
    "rivals": Section(rivals, 1_000, 8),
    "signals": Section(signals, 300, 4),
    "trainings": Section(trainings, 60, 1),
}
RECORDS = RESULTS / "reliability.jsonl"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--only", choices=SECTIONS, help="the one section to run")
    parser.add_argument("--count", type=int, help="cases, of each section that is run (default: as the page shows)")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time, where they are alone (default: 2)")
    parser.add_argument("--few", action="store_true", help="take as many cases as the tests do")
    parser.add_argument("--json", action="store_true", help="print the records instead of keeping them")
    parser.add_argument("--page", action="store_true", help="write docs/reliability.md from the records, and end")
    parser.add_argument("--replay", type=int, metavar="SEED", help="do one case of mutations or flips, and keep it")
    options = parser.parse_args(arguments)
    # Cases are forked: a process that has started threads of torch's cannot be.
    torch.set_num_threads(1)
    if options.replay is not None:
        folder = Path(tempfile.mkdtemp(prefix="reliability-"))
        print(folder, replay(options.replay, options.only or "mutations", folder), sep="\n")
        return 0
    bad = []
    for name in () if options.page else [options.only] if options.only else SECTIONS:
        usual = SECTIONS[name].few if options.few else SECTIONS[name].cases
        found = taken(name, options.count or usual, options.jobs)
        if not sound(found):
            bad.append(name)
        if options.json:
            print(json.dumps(found), flush=True)
            continue
        keep(found, arguments)
        print(name, shown(found), sep=": ", flush=True)
    if not options.json:
        PAGE.write_text(page(records()))
        print(f"written: docs/{PAGE.name}")
    return 1 if bad else 0


def taken(name: str, count: int, jobs: int) -> dict[str, Any]:
    """The record of a section."""
    start = time.perf_counter()
    found = SECTIONS[name].work(count, jobs)
    return {"section": name, **found, "seconds": round(time.perf_counter() - start, 1), "load": load()}


def shown(record: dict[str, Any]) -> str:
    """A record in one line."""
    control = record["control"]
    of_ours, of_theirs = (f"{each['faults']} of {each['tried']}" for each in (record, control))
    return f"faults {of_ours}, of the control {of_theirs}, {record['seconds']} s"


def sound(record: dict[str, Any]) -> bool:
    """Whether no fault was found, and would have been."""
    planted = record.get("planted", {"tried": 0, "faults": 0})
    return bool(
        record["tried"]
        and not record["faults"]
        and record["control"]["faults"]
        and planted["tried"] == planted["faults"]
    )


def keep(record: dict[str, Any], arguments: list[str]) -> None:
    only = ["--only", record["section"]] if "--only" not in arguments else []
    command = shlex.join(["python", "-m", "benchmarks.reliability", *only, *arguments])
    line = {"date": datetime.now(UTC).date().isoformat(), "command": command, "machine": machine(), **record}
    RECORDS.parent.mkdir(exist_ok=True)
    with RECORDS.open("a") as file:
        file.write(json.dumps(line) + "\n")


def records() -> dict[str, dict[str, Any]]:
    """The newest record of each section."""
    lines = RECORDS.read_text().splitlines() if RECORDS.exists() else []
    return {found["section"]: found for found in map(json.loads, lines)}


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
