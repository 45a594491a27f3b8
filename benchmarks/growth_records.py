"""The lines of benchmarks/results/growth.jsonl: a point each, with the versions and the processor it was taken on."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.growth_measuring import Measured
from benchmarks.growth_points import Point
from benchmarks.measuring import RESULTS, load, machine

__all__ = ["RECORDS", "Known", "append", "here", "known", "newest"]

SCHEMA = 1
"""Of a line. Older ones are neither shown nor a reason to pass a point over."""

RECORDS = RESULTS / "growth.jsonl"

Known = dict[Point, dict[str, Any]]
CONDITIONS = ("cpu", "torch", "python")


def append(path: Path, point: Point, found: Measured) -> dict[str, Any]:
    line = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "load": load(),
        "point": asdict(point),
        **asdict(found),
    }
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line


def here() -> dict[str, Any]:
    """What figures depend on besides the point: those of others are not compared with ours."""
    return conditions(machine())


def conditions(machine: Mapping[str, Any]) -> dict[str, Any]:
    return {name: machine[name] for name in CONDITIONS}


def known(path: Path, wanted: Mapping[str, Any]) -> Known:
    """The newest line of each point that was taken under the wanted conditions."""
    return {Point(**line["point"]): line for line in lines(path) if conditions(line["machine"]) == wanted}


def newest(path: Path) -> Known:
    """The lines of the conditions under which the last one was taken: a page is of one machine."""
    every = lines(path)
    return known(path, conditions(every[-1]["machine"])) if every else {}


def lines(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in found if line["schema"] == SCHEMA]
