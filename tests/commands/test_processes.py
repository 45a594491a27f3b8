"""Commands as a shell runs them: exit codes, streams, and the time --help takes."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from cli.door import _quoted
from tests.commands.running import DIGITS, MODEL, TRAIN, Place, run, run_as_process

COMMANDS = ("plan", "retrofit", "fold", "verify", "demo", "env")


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
