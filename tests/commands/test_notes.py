"""Notes while a bar shows how far work is: on lines of their own."""

import io
import json
from pathlib import Path

import pytest
from tqdm import tqdm

from bnretrofit.training import loop
from cli import console, door
from cli.console import fail, note
from tests.library.finetuning_cases import config, trained, with_norms


def test_a_note_stands_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    with tqdm(total=4, file=screen, ncols=60) as bar:
        bar.update()
        note("mind this")
        bar.update()
    lines = [shown(line) for line in screen.getvalue().split("\n")]
    assert lines[0] == "note: mind this"
    assert "2/4" in lines[1]


def test_a_bar_that_is_not_shown_yet_is_not_brought_up(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    with tqdm(total=4, file=screen, delay=60.0) as bar:
        bar.update()
        note("mind this")
    assert screen.getvalue() == "note: mind this\n"


def test_an_error_stands_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    # An error's frames keep a bar from being closed.
    bar = tqdm(total=4, file=screen, ncols=60)
    bar.update()
    assert fail([], "UsageError", "it is wrong", 2) == 2
    lines = [shown(line) for line in screen.getvalue().split("\n")]
    assert "/4" in lines[0]
    assert lines[1:] == ["error: it is wrong", ""]
    bar.close()
    assert screen.getvalue().endswith("error: it is wrong\n")


def test_of_several_processes_one_gives_the_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A document is the last thing that a command does, and this process goes on.
    monkeypatch.setattr(console, "ignore_interruptions", lambda: None)
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        assert fail(["finetune", "--json"], "UsageError", f"{rank} is wrong", 2) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["message"] == "0 is wrong"
    assert err == "error: 1 is wrong\n"


def test_how_to_go_on_names_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "args.yaml").touch()
    arguments = ["finetune", "-o", str(tmp_path)]
    assert f"to go on: bnretrofit finetune -o {tmp_path} --resume" in door._how_to_go_on(arguments, None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = door._how_to_go_on(arguments, None)
    assert f"to go on, launch on 2 processes as before: bnretrofit finetune -o {tmp_path} --resume" in said


def test_training_that_ends_before_its_bar_is_shown_leaves_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "tqdm", lambda **options: tqdm(**{**options, "delay": 3600.0}))
    trained(with_norms(), config(epochs=2))
    note("mind this")
    assert capfd.readouterr().err == "note: mind this\n"


def screen_of(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is written to stderr from now on; pytest sets that anew after its fixtures were made."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    return written


def shown(line: str) -> str:
    """What a terminal shows of a line: what comes after a carriage return is written over what was there."""
    cells: list[str] = []
    for part in line.split("\r"):
        cells[: len(part)] = part
    return "".join(cells).rstrip()
