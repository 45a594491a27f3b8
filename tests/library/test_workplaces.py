"""Outputs are made beside their place, by one writer at a time, and leave nothing behind."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bnretrofit import checkpoints, publishing
from bnretrofit.errors import InputRejectedError, ResourceError, UsageError
from bnretrofit.publishing import PendingOutput
from bnretrofit.workplaces import Workplace, sweep

TENSORS = {"a": torch.arange(12.0).view(3, 4), "b": torch.ones(5)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def held_elsewhere(output: Path, *, die: bool) -> Iterator[None]:
    """Within this, another process holds an output's workplace, with a file half written; or died so."""
    code = (
        "import sys, os, pathlib, time; from bnretrofit.workplaces import Workplace; "
        "place = Workplace(pathlib.Path(sys.argv[1])); (place.folder / 'new.pth').write_bytes(b'half'); "
        "print('held', flush=True); " + ("os._exit(9)" if die else "time.sleep(60)")
    )
    with subprocess.Popen([sys.executable, "-c", code, str(output)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        if die:
            process.wait()
        try:
            yield
        finally:
            process.kill()


def test_a_second_writer_is_refused_while_the_first_is_at_work(tmp_path: Path) -> None:
    output = tmp_path / "new.pth"
    with held_elsewhere(output, die=False):
        with pytest.raises(UsageError, match="is being written by another process"):
            publishing.write(output, TENSORS, None)
        sweep(tmp_path)
        assert names(tmp_path) == [".new.pth.bnretrofit"]
        publishing.write(tmp_path / "other.pth", TENSORS, None)
    publishing.write(output, TENSORS, None)
    assert names(tmp_path) == ["new.pth", "other.pth"]


def test_what_a_dead_writer_left_is_swept_by_the_next_one_in_the_folder(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "new.pth", die=True):
        (tmp_path / ".empty.pth.bnretrofit").mkdir()
    assert names(tmp_path) == [".empty.pth.bnretrofit", ".new.pth.bnretrofit"]
    publishing.write(tmp_path / "other.safetensors", TENSORS, None)
    assert names(tmp_path) == ["other.safetensors"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_lock_ends_with_the_process_that_took_it_and_not_with_its_children(tmp_path: Path) -> None:
    """A worker that decodes images outlives a killed parent; it neither keeps the lock nor takes the place away."""
    code = (
        "import sys, os, gc, pathlib, time; from bnretrofit.workplaces import Workplace; "
        "place = Workplace(pathlib.Path(sys.argv[1])); child = os.fork(); "
        "_ = (place := None, gc.collect()) if not child else None; "
        "print(child or 'child', flush=True); time.sleep(60)"
    )
    output = tmp_path / "new.pth"
    with subprocess.Popen([sys.executable, "-c", code, str(output)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = next(int(line) for line in sorted(process.stdout.readline() for _ in range(2)) if line != "child\n")
        try:
            assert names(tmp_path) == [".new.pth.bnretrofit"]
            with pytest.raises(UsageError, match="is being written by another process"):
                Workplace(output)
            process.kill()
            process.wait()
            os.kill(child, 0)
            Workplace(output).leave()
        finally:
            os.kill(child, 9)
    assert names(tmp_path) == []


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / ".cache.bnretrofit"
    other.mkdir()
    (other / "kept").write_text("somebody's")
    (tmp_path / ".file.bnretrofit").write_text("a file")
    publishing.write(tmp_path / "new.pth", TENSORS, None)
    assert names(tmp_path) == [".cache.bnretrofit", ".file.bnretrofit", "new.pth"]
    assert names(other) == ["kept"]


def test_a_workplace_can_be_taken_again_once_it_is_left(tmp_path: Path) -> None:
    for _ in range(3):
        place = Workplace(tmp_path / "new.pth")
        assert place.folder.is_dir()
        place.leave()
        assert names(tmp_path) == []


def test_a_file_that_comes_to_be_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "new.pth"
    with PendingOutput(output, TENSORS, lambda: None, overwrite=False) as pending:
        output.write_bytes(b"another's")
        with pytest.raises(UsageError, match="the output exists"):
            pending.publish()
    assert output.read_bytes() == b"another's"
    assert names(tmp_path) == ["new.pth"]


@pytest.mark.parametrize("linkless", [True, False])
def test_file_systems_without_links_are_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linkless: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    if linkless:
        monkeypatch.setattr(os, "link", refuse)
    publishing.write(tmp_path / "new.pth", TENSORS, None)
    assert names(tmp_path) == ["new.pth"]


def test_too_little_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 100

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    with pytest.raises(ResourceError, match="does not fit on the disk") as error:
        publishing.write(tmp_path / "new.pth", TENSORS, None)
    assert error.value.exit_code == 5
    assert names(tmp_path) == []


def written(folder: Path, tensors: dict[str, Tensor] | None = None, **header: Any) -> Path:
    path = folder / "ours.safetensors"
    publishing.write(path, tensors or TENSORS, {"stage": "folded", **header}, overwrite=True)
    return path


def test_a_file_bears_the_sha256_of_itself_with_the_digest_blank(tmp_path: Path) -> None:
    path = written(tmp_path)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    digest = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["bnretrofit"])["digest"]
    assert raw.count(digest.encode()) == 1
    assert hashlib.sha256(raw.replace(digest.encode(), b"0" * 64)).hexdigest() == digest
    assert checkpoints.read(path).header == {"stage": "folded"}
    assert load_file(path).keys() == TENSORS.keys()


def test_any_changed_byte_of_a_file_of_ours_is_refused_or_changes_no_tensor(tmp_path: Path) -> None:
    path = written(tmp_path)
    raw = path.read_bytes()
    refused = 0
    for position in range(len(raw)):
        path.write_bytes(raw[:position] + bytes([raw[position] ^ 1 << position % 8]) + raw[position + 1 :])
        try:
            found = checkpoints.read(path).tensors
        except InputRejectedError:
            refused += 1
            continue
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS), position
    assert refused > 0.95 * len(raw)


def test_a_file_of_ours_that_was_trained_on_and_saved_by_another_tool_is_read(tmp_path: Path) -> None:
    path = written(tmp_path)
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    trained = {key: value + 1 for key, value in load_file(path).items()}
    save_file(trained, path, metadata=header["__metadata__"])
    found = checkpoints.read(path)
    assert torch.equal(found.tensors["a"], trained["a"])
    assert found.header == {"stage": "folded"}
    assert "saved again by another tool" in found.notes[0]


def test_the_digest_is_found_in_whatever_else_the_header_says(tmp_path: Path) -> None:
    odd: dict[str, Any] = {
        "model": '"digest": "' + "0" * 64 + '"',
        "plan": "~" * 200,
        "calibration": {"digest": "f" * 64},
    }
    path = written(tmp_path, **odd)
    assert checkpoints.read(path).header == {"stage": "folded", **odd}


def test_a_planted_link_leads_nowhere(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    (home / "weeks").mkdir(parents=True)
    for name in ("weeks/model.pth", "lock", "bnretrofit.lock", "new.pth"):
        (home / name).write_text("somebody's")
    out.mkdir()
    for name in (".new.pth.bnretrofit", ".other.bnretrofit"):
        (out / name).symlink_to(home)
    with pytest.raises(ResourceError, match="no folder of bnretrofit's"):
        publishing.write(out / "new.pth", TENSORS, None)
    publishing.write(out / "third.pth", TENSORS, None)
    assert names(home) == ["bnretrofit.lock", "lock", "new.pth", "weeks"]
    assert names(home / "weeks") == ["model.pth"]


def test_a_folder_of_somebody_else_is_not_emptied(tmp_path: Path) -> None:
    other = tmp_path / ".new.pth.bnretrofit"
    other.mkdir()
    (other / "kept").write_text("somebody's")
    with pytest.raises(ResourceError, match="somebody else's"):
        publishing.write(tmp_path / "new.pth", TENSORS, None)
    assert names(other) == ["kept"]


def test_a_name_as_long_as_there_may_be_is_written(tmp_path: Path) -> None:
    name = "x" * 251 + ".pth"
    publishing.write(tmp_path / name, TENSORS, None)
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_private_file_stays_private_when_it_is_replaced(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "new.pth"
    publishing.write(path, TENSORS, None)
    path.chmod(mode)
    publishing.write(path, TENSORS, None, overwrite=True)
    assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("name", ["\0.pth", "a\0b.safetensors"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot have that name"):
        publishing.write(tmp_path / name, TENSORS, None)
