"""A slice of benchmarks/reliability.py: no fault, and a control in which there are some."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability import SECTIONS, sound

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def records() -> dict[str, Any]:
    """What came of all sections, in a process of their own: they fork, and this one has threads."""
    command = [sys.executable, "-m", "benchmarks.reliability", "--few", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    found = {record["section"]: record for record in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == SECTIONS.keys(), done.stderr
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_nothing_goes_wrong(records: dict[str, Any], section: str) -> None:
    record = records[section]
    assert record["tried"] >= SECTIONS[section].few
    assert record["faults"] == 0, record


@pytest.mark.parametrize("section", SECTIONS)
def test_a_fault_would_be_seen(records: dict[str, Any], section: str) -> None:
    assert records[section]["control"]["faults"] > 0
    assert sound(records[section])
    assert not sound({**records[section], "faults": 1})
    assert not sound({**records[section], "control": {"tried": 1, "faults": 0}})


def test_planted_faults_are_seen(records: dict[str, Any]) -> None:
    planted = records["mutations"]["planted"]
    assert planted["faults"] == planted["tried"] > 0
