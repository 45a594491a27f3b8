"""Commands as a shell runs them: exit codes, streams, signals, and the time --help takes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands.running import DIGITS, MODEL, TRAIN, Place, environment, factory, run, run_as_process

COMMANDS = ("plan", "retrofit", "fold", "verify", "demo", "env")

# Runs a command whose writer is interrupted after half of its file; it writes the rest at its leisure.
SLOW_WRITER = """
import pathlib, sys, time
import bnretrofit.publishing as publishing

def slow(tensors, path, metadata=None):
    pathlib.Path(path).write_bytes(b"half of it")
    print("writing", file=sys.__stdout__, flush=True)
    time.sleep(4)

publishing.save_file = slow
from cli.main import main
main(sys.argv[1:])
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


@pytest.mark.parametrize("sent", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_an_interrupted_command_ends_with_130_and_leaves_nothing(place: Place, sent: list[signal.Signals]) -> None:
    (place.out / "new.safetensors").write_bytes(b"old")
    model = ("-m", factory("plain"), "--trust-code", "-d", str(place.images))
    command = ("retrofit", str(place.plain), *model, "-o", "new.safetensors", "--overwrite")
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, *command],
        cwd=place.out,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert len(place.outputs()) == 2
        for number in sent:
            process.send_signal(number)
            time.sleep(0.3)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "error: nothing was written; run the same command again"
    assert (place.outputs(), (place.out / "new.safetensors").read_bytes()) == (["new.safetensors"], b"old")


def test_memory_that_runs_out_ends_with_5(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr("bnretrofit.workflows.retrofitting.calibrate", fail)
    done = place.retrofit(place.plain, "plain", "new.pth")
    assert (done.code, place.outputs()) == (5, [])
    assert "--batch-size" in done.error


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
