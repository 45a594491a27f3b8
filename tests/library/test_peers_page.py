"""docs/peers.md is made of the newest results: verdicts are counted, and what was not measured is left out."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peers_page
from benchmarks.peers_summary import aims, in_one_table

MADE: dict[str, Any] = {
    "command": "python -m benchmarks.fold_peers",
    "date": "2026-11-22",
    "machine": {"cpu": "a processor", "threads": 1, "torch": "2.15.0"},
    "peers": {"onnxsim": "0.8.1", "TinyNeuralNetwork": None},
}


def outcome(case: str, tool: str, verdict: str, error: float | None) -> dict[str, Any]:
    return {"case": case, "tool": tool, "verdict": verdict, "error": error}


FOLDED = MADE | {
    "outcomes": [
        outcome("tied", "a tool", "wrong", 0.5),
        outcome("hooked", "a tool", "wrong", 0.25),
        outcome("tied", "bnretrofit.fold", "refused", 1e-7),
        outcome("hooked", "bnretrofit.fold", "exact", 1e-7),
    ]
}


def test_verdicts_are_counted_by_tool() -> None:
    page = peers_page.page(None, None, FOLDED)
    rows = [row for row in cells(page[page.index("## Folding") :]) if row]
    assert [head.partition(":")[0] for head in rows[0]] == ["tool", "exact", "refused", "wrong"]
    assert rows[2:4] == [["a tool", "0", "0", "2"], ["bnretrofit.fold", "1", "1", "0"]]
    assert ["tied", "wrong 5.0e-01", "refused 1.0e-07"] in rows
    assert "onnxsim 0.8.1" in page
    assert "TinyNeuralNetwork" not in page


def test_costs_of_folding_are_the_quickest_rounds() -> None:
    figures = {
        "error": 1e-6,
        "norms": 13,
        "left": 0,
        "forward_seconds": [[0.5, 0.75], [0.25, 0.5]],
        "seconds": [[2.0, 4.0], [3.0, 3.0]],
        "peak_mib": 7,
    }
    tools = {"a tool": figures, "another": {"said": "not installed (another: no module)"}}
    page = peers_page.page(None, None, None, MADE | {"networks": {"a network": tools}})
    assert "| a tool | 0 of 13 | 1.0e-06 | 2.00 | 3.00 | 5.3 (5.7) | 7 |" in page
    assert "| another | not installed |" in page


def test_what_was_not_measured_is_left_out() -> None:
    assert "## " not in peers_page.page(None, None, None)
    found = [line for line in peers_page.page(None, None, FOLDED).splitlines() if line.startswith("## ")]
    assert found == [
        "## What was aimed at",
        "## Each tool in one row",
        "## Folding the networks that break folding tools",
    ]


def test_the_newest_line_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_page, "RESULTS", tmp_path)
    assert peers_page.newest("fold_peers") is None
    (tmp_path / "fold_peers.jsonl").write_text(json.dumps({"old": 1}) + "\n" + json.dumps(FOLDED) + "\n")
    assert peers_page.newest("fold_peers") == json.loads(json.dumps(FOLDED))


def test_the_page_in_the_project_is_that_of_its_results() -> None:
    assert peers_page.PAGE.read_text() == peers_page.page(*map(peers_page.newest, peers_page.RECORDS))


def insertion(error: float | None, statistics: float, over: float | None) -> dict[str, Any]:
    measured = {} if over is None else {"statistics": {"min": over / 2, "median": over}}
    return {
        "error": error,
        "statistics": {"var_max": statistics},
        "insertion_seconds": [[2.0, 1.0], [1.5, 1.0]],
        "over_forward": {"insertion": {"min": 2.0, "median": 2.0}, **measured},
        "peak_mib": 7,
    }


INSERTED = MADE | {
    "networks": {
        "small": {
            "bnretrofit.retrofit": insertion(0.0, 1e-7, 1.2),
            "by hand": insertion(1e-6, 0.5, 1.3),
            "far": insertion(None, 0.5, None),
        },
        "large": {
            "bnretrofit.retrofit": insertion(0.0, 3e-7, 0.9),
            "by hand": insertion(2e-6, 0.25, 1.1),
            "far": {"said": "raised"},
        },
    }
}


def test_an_aim_that_is_missed_is_said_to_be() -> None:
    found = {row[0]: row[1:] for row in cells(aims(INSERTED, None, FOLDED)[0])}
    assert found["the inserted norms change no bit"][0] == "yes"
    assert found["every peer's change is above 1e-05"] == ["no", "not: by hand 2.0e-06"]
    reached = {aim.partition(":")[0]: row for aim, row in found.items() if "calibration" in aim}
    assert reached == {
        "small": ["no", "0.60 (1.20); by hand 0.65 (1.30)"],
        "large": ["yes", "0.45 (0.90); by hand 0.55 (1.10)"],
    }
    assert found["no wrong fold"][0] == "yes"
    assert found["each peer has at least one"][0] == "yes"
    moved = json.loads(json.dumps(INSERTED))
    moved["networks"]["large"]["bnretrofit.retrofit"]["error"] = 1e-9
    assert ["the inserted norms change no bit", "no", "2 networks"] in cells(aims(moved, None, None)[0])
    sound = FOLDED | {"outcomes": [outcome("tied", "a tool", "refused", 1e-7)]}
    assert ["each peer has at least one", "no", "not: a tool"] in cells(aims(None, None, sound)[0])


def test_a_tool_s_row_has_its_worst_figures() -> None:
    rows = cells(in_one_table(INSERTED, FOLDED, None)[0])
    assert ["by hand", "2.0e-06", "5.0e-01", "", "", "3.0", "7"] in rows
    assert ["far", "not finite", "5.0e-01", "", "", "1.5", "7"] in rows
    assert ["a tool", "", "", "not measured", "2, 0", "", ""] in rows


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
