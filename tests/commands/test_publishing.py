"""An output appears whole and verified, or not at all, and an older file stays until then."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands.running import Place, run, tensors_of


@pytest.fixture
def corrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An inserter that spoils a weight."""
    from bnretrofit.insertion import insert_sharing

    def spoil(*arguments: Any) -> Any:
        result: Any = insert_sharing(*arguments)
        layer = result.get_submodule("2.layer")
        layer.weight = torch.nn.Parameter(layer.weight.detach() * 1.01)
        return result

    monkeypatch.setattr("bnretrofit.workflows.retrofitting.insert_sharing", spoil)


@pytest.mark.usefixtures("corrupted")
def test_a_failed_verification_does_not_publish(place: Place) -> None:
    done = place.retrofit(place.plain, "plain", "new.safetensors")
    assert (done.code, place.outputs()) == (3, [])
    assert "2.layer" in done.error
    done = place.retrofit(place.plain, "plain", "new.safetensors", "--json")
    assert (done.code, done.document["exit_code"], place.outputs()) == (3, 3, [])


@pytest.mark.usefixtures("corrupted")
def test_force_publishes_and_still_says_that_it_failed(place: Place) -> None:
    done = place.retrofit(place.plain, "plain", "new.safetensors", "--force", "--json")
    assert (done.code, done.document["status"], place.outputs()) == (3, "failed", ["new.safetensors"])
    report = done.document["report"]
    assert (report["passed"], report["layer"]) == (False, "2.layer")


@pytest.mark.usefixtures("corrupted")
def test_a_failed_verification_keeps_the_file_that_was_to_be_replaced(place: Place) -> None:
    (place.out / "new.pth").write_bytes(b"mine")
    assert place.retrofit(place.plain, "plain", "new.pth", "--overwrite").code == 3
    assert (place.outputs(), (place.out / "new.pth").read_bytes()) == (["new.pth"], b"mine")


def test_a_failed_fold_does_not_publish(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnretrofit.folding import fold_captured

    assert place.retrofit(place.plain, "plain", "bn.safetensors").code == 0

    def spoil(*arguments: Any, **more: Any) -> Any:
        result: Any = fold_captured(*arguments, **more)
        layer = result.model[0]
        layer.bias = torch.nn.Parameter(layer.bias.detach() + 0.1)
        return result

    monkeypatch.setattr("bnretrofit.workflows.folding.fold_captured", spoil)
    command = ("fold", place.out / "bn.safetensors", "--trust-code", "-o", place.out / "back.pth")
    done = run(*command)
    assert (done.code, place.outputs()) == (3, ["bn.safetensors"])
    assert "the folded model is not the same function" in done.error
    told = run(*command, "--json").document
    assert told["error"]["kind"] == "VerificationError"
    assert told["report"]["passed"] is False
    assert run(*command, "--force").code == 3
    assert "back.pth" in place.outputs()


@pytest.mark.parametrize("name", ["new.safetensors", "new.pth"])
def test_overwrite_replaces_the_file(place: Place, name: str) -> None:
    (place.out / name).write_bytes(b"old")
    assert place.retrofit(place.plain, "plain", name, "--overwrite").code == 0
    assert "0.norm.weight" in tensors_of(place.out / name)
    assert place.outputs() == [name]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("broken")])
@pytest.mark.parametrize("name", ["new.safetensors", "new.pth"])
def test_a_writer_that_fails_midway_keeps_the_old_file(
    place: Place, monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException
) -> None:
    def fail(_content: object, path: Any, **_: object) -> None:
        if isinstance(path, Path):
            path.write_bytes(b"half of it")
        else:
            path.write(b"half of it")
        raise error

    monkeypatch.setattr("bnretrofit.serialising.save_file", fail)
    monkeypatch.setattr("bnretrofit.serialising.torch.save", fail)
    (place.out / name).write_bytes(b"old")
    done = place.retrofit(place.plain, "plain", name, "--overwrite")
    assert done.code == {OSError: 5, KeyboardInterrupt: 130, ValueError: 1}[type(error)]
    assert done.error
    assert (place.outputs(), (place.out / name).read_bytes()) == ([name], b"old")


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Within this, no file can grow beyond a size, as on a full disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["new.safetensors", "new.pth"])
def test_a_full_disk_ends_with_5_and_nothing_written(place: Place, name: str) -> None:
    with small_disk(1000):
        done = place.retrofit(place.plain, "plain", name)
    assert (done.code, place.outputs()) == (5, []), done.err
    assert done.error


def test_a_name_too_long_for_the_file_system_is_no_internal_error(place: Place) -> None:
    done = place.retrofit(place.plain, "plain", "x" * 300 + ".pth")
    assert (done.code, place.outputs()) == (2, [])
    longest = "x" * 251 + ".pth"
    assert place.retrofit(place.plain, "plain", longest).code == 0
    assert place.outputs() == [longest]


@pytest.mark.parametrize("name", ["new.safetensors", "new.pth"])
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_outputs_honour_the_umask(place: Place, name: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert place.retrofit(place.plain, "plain", name).code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((place.out / name).stat().st_mode) == 0o666 & ~umask
