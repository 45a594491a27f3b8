"""Commands as a shell runs them: exit codes, streams, signals, and the time --help takes."""

import errno
import json
import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.console import SIGNALS
from cli.door import _quoted
from cli.interruption import Interruption
from tests.commands.running import (
    DIGITS,
    MODEL,
    TRAIN,
    Place,
    draw_images,
    environment,
    factory,
    run,
    run_as_process,
    save_state,
    tensors_of,
)

COMMANDS = ("plan", "retrofit", "fold", "verify", "demo", "env")

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

# Runs a command that calibrates with little more memory than its process has by then.
CRAMPED = """
import os, resource, sys
import bnretrofit.workflows.retrofitting as workflow

measure = workflow.calibrate

def cramped(*arguments):
    size = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, before[1]))
    try:
        return measure(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

workflow.calibrate = cramped
from cli.main import main
main()
"""

WIDE = """
from torch import nn

def wide():
    return nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
"""


def test_a_retrofit_writes_its_json_and_nothing_else_to_stdout(tmp_path: Path) -> None:
    command = ("retrofit", DIGITS, "-m", MODEL, "-d", TRAIN, "-n", 8, "-o", "bn.safetensors", "--json")
    done = run_as_process(*command, cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.document["report"]["proved"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["bn.safetensors"]


def test_an_error_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    done = run_as_process("fold", "missing.pth", "-o", "new.pth", cwd=tmp_path)
    assert (done.code, done.error) == (4, "missing.pth: the checkpoint cannot be read: there is no such file")
    assert list(tmp_path.iterdir()) == []


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


def test_memory_that_runs_out_ends_with_5_and_says_how_much_was_needed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1288490189 bytes.")

    monkeypatch.setattr("bnretrofit.workflows.retrofitting.insert_sharing", fail)
    done = place.retrofit(place.plain, "plain", "new.pth")
    assert (done.code, place.outputs()) == (5, [])
    assert done.error.startswith("memory ran out: it tried to allocate 1.2 GiB. Use a smaller --batch-size")
    monkeypatch.undo()
    # What verification makes of it is not taken for a batch that the model does not take.
    monkeypatch.setattr("torch.nn.Sequential.forward", fail)
    model = ("-m", factory("plain"), "--trust-code")
    done = run("verify", place.plain, place.plain, *model, "-d", place.images)
    assert (done.code, "1.2 GiB" in done.error) == (5, True)


def test_a_disk_that_is_full_asks_for_no_smaller_batch(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bnretrofit.serialising.save_file", fail)
    done = place.retrofit(place.plain, "plain", "new.safetensors")
    assert (done.code, place.outputs()) == (5, [])
    assert done.error.endswith("No space left on device. Free some disk, or write to another one")


@pytest.mark.skipif(sys.platform != "linux", reason="sets and reads what memory a process may have as Linux does")
def test_a_batch_that_does_not_fit_in_memory_is_run_in_parts(tmp_path: Path) -> None:
    (tmp_path / "wide.py").write_text(WIDE)
    images = draw_images(tmp_path / "images", count=48, size=128)
    save_state(tmp_path / "wide.pth", runpy.run_path(str(tmp_path / "wide.py"))["wide"]())
    model = ("wide.pth", "-m", "wide.py:wide", "--trust-code", "-d", images)
    # One image takes 4 MiB in the first layer, and as much in the next.
    program = CRAMPED.replace("ROOM", str(200 << 20))
    # Each thread of OpenMP would map memory of its own.
    whole, parts = (
        run_as_process(
            "retrofit", *model, "-b", size, "-o", f"{size}.pth", "--json",
            cwd=tmp_path, program=("-c", program), OMP_NUM_THREADS="1",
        )
        for size in (8, 48)
    )  # fmt: skip
    assert (whole.code, parts.code) == (0, 0), whole.err + parts.err
    assert [note for note in whole.notes if "did not fit" in note] == []
    (note,) = parts.notes
    assert note.startswith("a batch of 48 samples did not fit in memory, so batches were run in parts of at most ")
    assert parts.document["report"]["notes"] == [note]
    a, b = tensors_of(tmp_path / "8.pth"), tensors_of(tmp_path / "48.pth")
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-5, atol=1e-6)


def test_a_fault_of_ours_is_one_line_that_asks_for_a_report(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LookupError("lost")

    monkeypatch.setattr("bnretrofit.workflows.retrofitting.calibrate", fail)
    done = place.retrofit(place.plain, "plain", "new.pth")
    assert (done.code, place.outputs()) == (1, [])
    assert done.error.startswith("internal error, LookupError: lost.")
    monkeypatch.setenv("BNRETROFIT_TRACEBACK", "1")
    assert "Traceback" in place.retrofit(place.plain, "plain", "new.pth").err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help_with_an_example(command: str, flag: str) -> None:
    done = run(command, flag)
    assert (done.code, done.err) == (0, "")
    assert "Example:" in done.out
    assert f"bnretrofit {command}" in done.out


def test_help_is_fast_and_loads_neither_torch_nor_timm() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run_as_process("--help", cwd=Path.cwd())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.code, done.err) == (0, "")
    for command in COMMANDS:
        assert f"\n  {command} " in done.out
    # The design's 0.3 s is for a quiet machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6
    code = "import cli.main, sys, json; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    loaded = json.loads(run_as_process(cwd=Path.cwd(), program=("-c", code)).out)
    assert not {"torch", "timm", "torchvision", "numpy", "bnretrofit"} & set(loaded)


def test_the_version_is_the_package_s() -> None:
    from importlib.metadata import version

    assert version("bnretrofit") in run("--version").out


@pytest.mark.parametrize("argument", ["plain", "two words", "a\nb", "it's\n", "back\\slash\t", "\udcff"])
def test_the_command_to_go_on_with_is_one_that_a_shell_takes(argument: str) -> None:
    quoted = _quoted(argument)
    assert quoted.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {quoted}"], capture_output=True, check=True)
    assert done.stdout == os.fsencode(argument)
