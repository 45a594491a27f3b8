"""docs/peers.md is made of the newest results: verdicts are counted, and what was not measured is left out."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peers_page

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
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
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
    assert peers_page.page(None, None, FOLDED).count("\n## ") == 1


def test_the_newest_line_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_page, "RESULTS", tmp_path)
    assert peers_page.newest("fold_peers") is None
    (tmp_path / "fold_peers.jsonl").write_text(json.dumps({"old": 1}) + "\n" + json.dumps(FOLDED) + "\n")
    assert peers_page.newest("fold_peers") == json.loads(json.dumps(FOLDED))


def test_the_page_in_the_project_is_that_of_its_results() -> None:
    assert peers_page.PAGE.read_text() == peers_page.page(*map(peers_page.newest, peers_page.RECORDS))
