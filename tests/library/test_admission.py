"""Checkpoints that were found, among many thousands, to be read otherwise than they should: each stays refused."""

import argparse
import hashlib
import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bnretrofit import checkpoints, publishing
from bnretrofit.checkpoints import reading
from bnretrofit.checkpoints.digests import file_digest
from bnretrofit.checkpoints.kinds import kind_of_file
from bnretrofit.checkpoints.places import place_of
from bnretrofit.checkpoints.states import states_of
from bnretrofit.errors import InputRejectedError


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4).half()}


def repacked(path: Path, change: Any) -> None:
    """Write an archive again with its pickle changed and right checksums."""
    with zipfile.ZipFile(path) as archive:
        content = [(name, archive.read(name)) for name in archive.namelist()]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content:
            archive.writestr(name, change(data) if name.endswith("/data.pkl") else data)
    path.write_bytes(file.getvalue())


def test_a_record_that_is_marked_as_a_folder_is_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "flipped.pth"
    torch.save(tensors, path)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\1\2", 0, data.rindex(b"/data/0"))
    data[entry + 38] ^= 0x10
    path.write_bytes(data)
    # torch takes no data from it then, and says nothing.
    assert not torch.equal(torch.load(path, weights_only=True)["a"], tensors["a"])
    with pytest.raises(InputRejectedError, match="marked as a folder"):
        checkpoints.read(path)


def test_folders_of_an_archive_that_was_packed_again_are_no_records(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "packed.pth"
    torch.save(tensors, path)
    with zipfile.ZipFile(path) as archive:
        content = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("packed")
        for name, data in content:
            archive.writestr(name, data)
    assert torch.equal(checkpoints.read(path).tensors["a"], tensors["a"])


@pytest.mark.parametrize("name", ["training.pth", "old.pth"])
def test_sets_and_complex_numbers_beside_the_weights_are_no_obstacle(
    tmp_path: Path, tensors: dict[str, Tensor], name: str
) -> None:
    content = {"model": tensors, "seen": {1, 2}, "z": 1j, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=name != "old.pth")
    assert torch.equal(checkpoints.read(tmp_path / name).tensors["a"], tensors["a"])


def built(state: bytes) -> Any:
    """Give the last tensor of a state_dict another state, as BUILD does."""

    def change(pickle: bytes) -> bytes:
        assert pickle.endswith(b"u.")
        return pickle[:-2] + state + b"b" + pickle[-2:]

    return change


@pytest.mark.parametrize(
    "state",
    [
        b"N",
        b"](K\1K\2e",
        # A storage, an offset, a size of 2 GiB and a step: torch would reserve as much.
        b"((X\7\0\0\0storagectorch\nHalfStorage\nX\1\0\0\0" + b"1X\3\0\0\0cpuK\4tQK\0\x8a\5\0\0\0\x40\0\x85K\1\x85t",
    ],
)
def test_a_tensor_is_not_changed_once_it_is_made(tmp_path: Path, tensors: dict[str, Tensor], state: bytes) -> None:
    path = tmp_path / "built.pth"
    torch.save(tensors, path)
    repacked(path, built(state))
    with pytest.raises(InputRejectedError, match="changes what it has made"):
        checkpoints.read(path)


def test_training_options_have_no_way_of_taking_up_their_state(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "options.pth"
    torch.save({"model": tensors, "args": argparse.Namespace(step=3)}, path)
    name = b"__setstate__"

    def renamed(pickle: bytes) -> bytes:
        return pickle.replace(b"X\4\0\0\0step", b"X" + struct.pack("<I", len(name)) + name)

    repacked(path, renamed)
    with pytest.raises(InputRejectedError, match="changes what it has made"):
        checkpoints.read(path)


@pytest.mark.parametrize("key", [b'\\"digest\\"', b'"bnretrofit"'])
def test_a_file_of_ours_without_its_digest_is_refused(tmp_path: Path, tensors: dict[str, Tensor], key: bytes) -> None:
    path = tmp_path / "new.safetensors"
    publishing.write(path, tensors, {"stage": "folded"})
    data = path.read_bytes()
    assert data.count(key) == 1
    place = data.index(key) + key.index(b"i")
    path.write_bytes(data[:place] + b"l" + data[place + 1 :])
    with pytest.raises(InputRejectedError, match="its digest is gone"):
        checkpoints.read(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_is_told_of_a_file_is_of_one_and_the_same(
    tmp_path: Path, tensors: dict[str, Tensor], suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / f"model{suffix}", tmp_path / f"other{suffix}"
    publishing.write(path, tensors, {"of": "one"})
    publishing.write(other, {name: tensor + 1 for name, tensor in tensors.items()}, {"of": "other"})
    whole = hashlib.sha256(other.read_bytes()).hexdigest()
    step = "tensors_header" if suffix == ".safetensors" else "check_outlines"
    judged = getattr(reading, step)

    def replaced_once_judged(*arguments: Any) -> Any:
        found = judged(*arguments)
        if other.exists():
            other.replace(path)
        return found

    monkeypatch.setattr(reading, step, replaced_once_judged)
    found = checkpoints.read(path)
    assert torch.equal(found.tensors["a"], tensors["a"] + 1)
    assert found.header in (None, {"of": "other"})
    assert found.digest.result() == whole


def test_a_file_that_never_stands_still_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pth"
    torch.save(tensors, path)
    judged = kind_of_file

    def touched(file: Path) -> str:
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
        return judged(file)

    monkeypatch.setattr(reading, "kind_of_file", touched)
    with pytest.raises(InputRejectedError, match="changed while it was read"):
        checkpoints.read(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_that_vanishes_is_an_error_of_ours(
    tmp_path: Path, tensors: dict[str, Tensor], suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"model{suffix}"
    publishing.write(path, tensors, {})
    step = "tensors_header" if suffix == ".safetensors" else "choose"
    judged = getattr(reading, step)

    def removed_then(*arguments: Any) -> Any:
        found = judged(*arguments)
        path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(reading, step, removed_then)
    with pytest.raises(InputRejectedError):
        checkpoints.read(path)


def test_a_digest_is_of_the_file_that_was_read(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "model.pth"
    torch.save(tensors, path)
    state = states_of(place_of(path))[path]
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(InputRejectedError, match="changed while it was read"):
        file_digest(path, state)
    path.unlink()
    with pytest.raises(InputRejectedError, match="changed while it was read"):
        file_digest(path, state)


def test_a_digest_is_had_though_the_file_is_replaced_since(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path, other = tmp_path / "model.pth", tmp_path / "other.pth"
    torch.save(tensors, path)
    other.write_bytes(b"something else")
    state, whole = states_of(place_of(path))[path], hashlib.sha256(path.read_bytes()).hexdigest()
    file = path.open("rb", buffering=0)
    other.replace(path)
    assert file_digest(path, state, file) == whole
    assert file.closed
