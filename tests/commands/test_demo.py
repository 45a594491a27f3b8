"""`bnretrofit demo` and `bnretrofit env`: from any folder, without a network, with figures that are true."""

import re
import socket
from pathlib import Path

import pytest

from tests.commands.running import DIGITS, equal, run, tensors_of


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Another folder, where a connection is an error."""

    def refuse(*_: object) -> None:
        raise AssertionError("the demo must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_demo_tells_its_story_with_its_own_figures(offline: Path) -> None:
    done = run("demo")
    assert done.code == 0
    steps = re.findall(r"^(\d)\. (\w+)", done.out, flags=re.MULTILINE)
    assert steps == [("1", "plan"), ("2", "retrofit"), ("3", "verify"), ("4", "fold"), ("5", "verify")]
    assert "10 layers get a BatchNorm" in done.out
    assert done.out.count("bit-identical on 360 images") == 2
    assert done.out.count("accuracy 99.72 % before, 99.72 % after") == 2
    assert "22 of 22 tensors are the original's, bit for bit" in done.out
    assert list(offline.iterdir()) == []


def test_the_demo_keeps_its_files_and_gives_its_figures_as_json(offline: Path) -> None:
    done = run("demo", "-o", "kept", "--json")
    said = done.document
    assert said.items() >= {"schema_version": 1, "command": "demo", "status": "ok", "exit_code": 0}.items()
    assert (said["sites"], said["calibration_images"]) == (10, 200)
    assert [said[step]["report"]["proved"] for step in ("retrofitted", "folded")] == [True, True]
    assert said["folded"]["equal_tensors"] == said["folded"]["tensors"] == len(tensors_of(DIGITS))
    assert {path.name for path in (offline / "kept").iterdir()} >= {
        "digits-bn.safetensors",
        "digits-folded.safetensors",
    }
    assert equal(tensors_of(offline / "kept" / "digits-folded.safetensors"), tensors_of(DIGITS))


def test_the_demo_does_not_overwrite_what_lies_in_its_folder(offline: Path) -> None:
    (offline / "digits-bn.safetensors").write_text("mine")
    done = run("demo", "-o", ".")
    assert (done.code, (offline / "digits-bn.safetensors").read_bytes()) == (2, b"mine")


def test_a_file_in_the_place_of_the_demo_s_folder_is_refused(offline: Path) -> None:
    (offline / "taken").write_text("mine")
    assert run("demo", "-o", "taken").code == 2


def test_env_says_what_a_bug_report_needs() -> None:
    import torch

    done = run("env")
    assert done.code == 0
    found = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert found["torch"] == torch.__version__.split("+")[0]
    assert {"python", "bnretrofit", "timm", "torchvision", "platform", "cpu"} <= found.keys()
    said = run("env", "--json").document
    assert said.items() >= {"command": "env", "status": "ok", "exit_code": 0, "timm": found["timm"]}.items()
