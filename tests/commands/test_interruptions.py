"""Ctrl-C and SIGTERM at any point of a command: exit code 130, one document, and nothing left behind."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from typing import Any

import pytest

from cli.console import SIGNALS
from cli.interruption import Interruption
from tests.commands.running import Place, environment, factory, run

# Runs a command that says so at one point and waits there for a while, to be interrupted.
PAUSING = """
import contextlib, pathlib, sys, time

def pause(seconds=30):
    print("here", file=sys.__stdout__, flush=True)
    time.sleep(seconds)

class Finder:
    def find_spec(self, name, *_):
        if name == "timm":
            # Libraries make something else of what interrupts their imports.
            try:
                pause()
            except KeyboardInterrupt:
                raise ImportError("there is no timm") from None

def paused(*_, **__):
    pause()

def half(tensors, path, metadata=None):
    pathlib.Path(path).write_bytes(b"half of it")
    # By then the other thread waits for this one.
    time.sleep(0.5)
    pause(3)

point = sys.argv.pop(1)
if point == "importing":
    sys.meta_path.insert(0, Finder())
elif point == "calibrating":
    import bnretrofit.calibration
    bnretrofit.calibration._forward = paused
elif point == "writing":
    import bnretrofit.serialising
    bnretrofit.serialising.save_file = half
elif point == "written":
    import bnretrofit.workflows.retrofitting
    bnretrofit.workflows.retrofitting.Retrofitted = paused
from cli.main import main
main()
"""


@contextmanager
def paused(place: Place, point: str, *more: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A retrofit that has come to a point, in a process group of its own, and its arguments."""
    model = ("-m", factory("plain"), "--trust-code", "-d", str(place.images))
    command = ["retrofit", str(place.plain), *model, "-o", "new.safetensors", *more]
    with subprocess.Popen(
        [sys.executable, "-c", PAUSING, point, *command],
        cwd=place.out,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "here\n":
            pytest.fail(f"it ended before: {process.communicate()[1]}")
        yield process, command


def ended(process: subprocess.Popen[str], sent: list[signal.Signals]) -> tuple[str, str]:
    """What a process prints that is sent signals, as a terminal sends them: to the workers too."""
    for number in sent:
        os.killpg(process.pid, number)
        time.sleep(0.3)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    deadline = time.monotonic() + 10
    while is_alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(process.pid)
    return out, err


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("point", "sent", "more"),
    [
        ("importing", [signal.SIGINT], ()),
        ("calibrating", [signal.SIGINT], ("-j", "2", "-b", "1")),
        ("calibrating", [signal.SIGTERM], ("-j", "2", "-b", "1")),
        ("calibrating", [signal.SIGHUP, signal.SIGTERM], ("--mean", "0.5 0.4 0.3")),
        ("writing", [signal.SIGINT], ()),
        ("writing", [signal.SIGTERM], ()),
        ("writing", [signal.SIGINT, signal.SIGINT, signal.SIGINT], ()),
    ],
)
def test_an_interrupted_command_ends_with_130_and_leaves_nothing(
    place: Place, point: str, sent: list[signal.Signals], more: tuple[str, ...]
) -> None:
    (place.out / "new.safetensors").write_bytes(b"old")
    with paused(place, point, "--overwrite", *more) as (process, command):
        assert (len(place.outputs()) > 1) is (point == "writing")
        out, err = ended(process, sent)
    assert (place.outputs(), (place.out / "new.safetensors").read_bytes()) == (["new.safetensors"], b"old")
    assert out == ""
    (told,) = [line for line in err.splitlines() if line.startswith("error: ")]
    start = "error: interrupted, nothing was written; to start again: "
    assert told.startswith(start)
    assert shlex.split(told.removeprefix(start)) == ["bnretrofit", *command]


def test_an_interrupted_command_that_prints_json_prints_one_document(place: Place) -> None:
    with paused(place, "calibrating", "--json") as (process, _):
        out, err = ended(process, [signal.SIGINT])
    document = json.loads(out)
    assert (document["command"], document["status"], document["exit_code"]) == ("retrofit", "interrupted", 130)
    assert document["error"]["message"].startswith("interrupted, nothing was written; to start again: bnretrofit ")
    assert "error: " not in err


def test_an_interruption_after_the_output_was_written_says_so(place: Place) -> None:
    with paused(place, "written") as (process, _):
        _, err = ended(process, [signal.SIGINT])
    assert place.outputs() == ["new.safetensors"]
    assert "error: interrupted after 'new.safetensors' had been written whole" in err


def test_an_interruption_comes_too_late_for_a_document_that_is_being_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    dumps = json.dumps

    def interrupted(*arguments: Any, **options: Any) -> str:
        signal.raise_signal(signal.SIGINT)
        return dumps(*arguments, **options)

    before = [signal.getsignal(number) for number in SIGNALS]
    monkeypatch.setattr("cli.console.json.dumps", interrupted)
    done = run("env", "--json")
    monkeypatch.undo()
    assert (done.code, done.document["status"]) == (0, "ok")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption(to_the_end=False):
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Finalised:
    """Interrupted where nothing can be raised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


class Loader(ExtensionFileLoader):
    """Interrupted where C++ sets up a module, which may end the process if anything is raised."""

    def exec_module(self, module: object) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("act", [Finalised, lambda: Loader("module", "module.so").exec_module(None)])
def test_an_interruption_where_none_can_be_raised_comes_again(act: Callable[[], object]) -> None:
    gone_through, start = False, time.monotonic()
    with Interruption(to_the_end=False), pytest.raises(KeyboardInterrupt):  # noqa: PT012 - where it raises is the test
        act()
        gone_through = True
        time.sleep(10)
    assert gone_through
    assert time.monotonic() - start < 5
