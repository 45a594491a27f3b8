"""Notes while a bar shows how far work is: on lines of their own."""

import io

import pytest
from tqdm import tqdm

from cli.console import note


def test_a_note_stands_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    with tqdm(total=4, file=screen, ncols=60) as bar:
        bar.update()
        note("mind this")
        bar.update()
    lines = [shown(line) for line in screen.getvalue().split("\n")]
    assert lines[0] == "note: mind this"
    assert "2/4" in lines[1]


def test_a_bar_that_is_not_shown_yet_is_not_brought_up(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    with tqdm(total=4, file=screen, delay=60.0) as bar:
        bar.update()
        note("mind this")
    assert screen.getvalue() == "note: mind this\n"


def shown(line: str) -> str:
    """What a terminal shows of a line: what comes after a carriage return is written over what was there."""
    cells: list[str] = []
    for part in line.split("\r"):
        cells[: len(part)] = part
    return "".join(cells).rstrip()
