"""Networks of torchvision and timm through plan, retrofit, verify and fold, each in a process of its own.

    python -m benchmarks.zoo

Every network leaves a line in benchmarks/results/zoo.jsonl, also one that crashes, takes too long or needs too much
memory. A network that has a line, of the same versions, is passed over, so the run can be interrupted and goes on where
it was. At the end docs/coverage.md is written from these lines.
"""

import argparse
import dataclasses
import json
import logging
import os
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

from benchmarks.measuring import RESULTS, load, machine
from benchmarks.zoo_checks import Record, check, misses
from benchmarks.zoo_list import Entry, entries
from benchmarks.zoo_page import page
from benchmarks.zoo_processes import Ending, watched

SCHEMA = 1
"""Of a record. Older ones are neither shown nor a reason to pass a network over."""

START = '{"key": '
RECORDS = RESULTS / "zoo.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="GLOB", default="*", help="keys to take, such as 'timm:*' or '*:vgg*'")
    parser.add_argument("--list", action="store_true", help="show the keys, and whether there is a record, and end")
    parser.add_argument("--page", action="store_true", help="write docs/coverage.md from the records, and end")
    parser.add_argument("--again", action="store_true", help="take those that have a record too")
    parser.add_argument("--seconds", type=float, default=900, help="bound for each network (default: %(default)s)")
    parser.add_argument("--memory-gib", type=float, default=14, help="bound for each network (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time (default: %(default)s)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        child(Entry(**json.loads(options.child)))
        return
    everything, known = entries(), records(RECORDS)
    chosen = [entry for entry in everything if fnmatch(entry.key, options.only)]
    if options.list:
        print(*(f"{known[e.key]['outcome'] if e.key in known else '-':8}{e.key}" for e in chosen), sep="\n")
        return
    if not options.page:
        if not chosen:
            parser.error(f"no key matches '{options.only}'; see --list")
        waiting = [entry for entry in chosen if options.again or entry.key not in known]
        print(f"{len(waiting)} of {len(chosen)} networks to take; load average {load()}", flush=True)
        with closing(run(waiting, options)) as found:
            for number, record in enumerate(found, 1):
                append(record)
                print(f"{number} of {len(waiting)}", record["key"], shown(record), sep="  ", flush=True)
    PAGE.write_text(page(list(records(RECORDS).values()), everything))
    print(f"written: docs/{PAGE.name}")


def child(entry: Entry) -> None:
    """One network in this process; the last line that is written is its record as far as it came."""
    # What fold leaves is in the record.
    logging.getLogger("bnretrofit").setLevel(logging.ERROR)
    print(json.dumps(check(entry, lambda record: print(json.dumps(record), flush=True))), flush=True)


def run(waiting: list[Entry], options: argparse.Namespace) -> Generator[Record]:
    """A record of each network, in the order in which they are done; on an interruption no process is left."""
    stop = threading.Event()
    with ThreadPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(taken, entry, options, stop) for entry in waiting]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def taken(entry: Entry, options: argparse.Namespace, stop: threading.Event) -> Record:
    command = [sys.executable, "-m", "benchmarks.zoo", "--child", json.dumps(dataclasses.asdict(entry))]
    threads = str(max(1, (os.cpu_count() or 1) // options.jobs))
    ending = watched(
        command,
        seconds=options.seconds,
        memory=options.memory_gib * 2**30,
        stop=stop,
        environment={"OMP_NUM_THREADS": threads, **os.environ},
    )
    return recorded(entry, ending)


def recorded(entry: Entry, ending: Ending) -> Record:
    """The record of a process that came to its end, or what there was of it when it did not."""
    found: Record = {"group": entry.group, "family": entry.family, "part": entry.part, "step": "start", "error": None}
    for line in ending.lines:
        # Others are a library's own words, or half a line.
        with suppress(json.JSONDecodeError):
            found = json.loads(line) if line.startswith(START) else found
    if ending.outcome != "done" or "outcome" not in found:
        found["outcome"] = "crash" if ending.outcome == "done" else ending.outcome
        step = found["step"] or "end"
        found["error"] = found["error"] or {"step": step, "kind": found["outcome"], "message": ending.reason}
    head = {"schema": SCHEMA, "key": entry.key, "date": datetime.now(UTC).date().isoformat(), "versions": versions()}
    return {**head, **found, "process_seconds": round(ending.seconds, 1), "machine": machine()}


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "torchvision", "timm")}


def records(path: Path) -> dict[str, Record]:
    """The newest record of each network, of this schema and these versions."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return {each["key"]: each for each in found if each["schema"] == SCHEMA and each["versions"] == versions()}


def append(record: Record) -> None:
    RECORDS.parent.mkdir(exist_ok=True)
    with RECORDS.open("a") as file:
        file.write(json.dumps(record) + "\n")


def shown(record: Record) -> str:
    """A record in one line."""
    missed = misses(record)
    seconds, memory = record["process_seconds"], record.get("peak_mib")
    return f"{record['outcome']}, {seconds} s, {memory} MiB" + (f": {'; '.join(missed)}" if missed else "")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
