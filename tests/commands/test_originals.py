"""No output takes the place of what a command reads, whatever either is called: it may be all that a user has."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.commands.running import Place, factory, run, tensors_of

MODEL = ("-m", factory("plain"), "--trust-code")


def linked(place: Place, name: str) -> Path:
    (place.out / name).symlink_to(place.plain)
    return place.out / name


def linked_hard(place: Place, name: str) -> Path:
    os.link(place.plain, place.out / name)
    return place.out / name


def itself(place: Place, _name: str) -> Path:
    return place.plain


@pytest.mark.parametrize("output", [itself, linked, linked_hard])
@pytest.mark.parametrize("command", ["retrofit", "fold", "export"])
def test_an_output_on_the_checkpoint_is_refused(
    place: Place, command: str, output: Callable[[Place, str], Path]
) -> None:
    before, written = place.plain.read_bytes(), output(place, "other.pth")
    done = run(command, place.plain, *MODEL, "-d", place.images, "-o", written, "--overwrite")
    assert (done.code, "would replace what is read" in done.error) == (2, True)
    assert place.plain.read_bytes() == before
    # Before any work: what is not there is not looked for, either.
    assert run(command, place.plain, *MODEL, "-d", place.folder / "none", "-o", written, "--overwrite").code == 2


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors", "state.safetensors"])
def test_a_run_s_own_files_are_not_written_over(small: Path, tmp_path: Path, name: str) -> None:
    for each in ("best.safetensors", "last.safetensors", "state.safetensors"):
        shutil.copyfile(small, tmp_path / each)
    done = run("fold", tmp_path, "--trust-code", "-o", tmp_path / name, "--overwrite")
    assert (done.code, "would replace what is read" in done.error) == (2, True)
    # Beside them there is room, and that may be written again.
    for _ in range(2):
        assert run("fold", tmp_path, "--trust-code", "-o", tmp_path / "folded.safetensors", "--overwrite").code == 0


@pytest.mark.parametrize("named", ["model.safetensors.index.json", ""])
def test_no_shard_is_written_over(place: Place, named: str) -> None:
    tensors = tensors_of(place.plain)
    shards = {f"shard-{number}.safetensors": dict([item]) for number, item in enumerate(tensors.items())}
    for name, shard in shards.items():
        save_file(shard, place.out / name)
    index = {"weight_map": {key: name for name, shard in shards.items() for key in shard}}
    (place.out / "model.safetensors.index.json").write_text(json.dumps(index))
    given = ("retrofit", place.out / named, *MODEL, "-d", place.images)
    done = run(*given, "-o", place.out / "shard-1.safetensors", "--overwrite")
    assert (done.code, "would replace what is read" in done.error) == (2, True)
    assert run(*given, "-o", place.out / "bn.safetensors").code == 0


def test_a_plan_file_is_not_written_over(place: Place) -> None:
    plan = place.out / "plan.pth"
    plan.write_text('{"sites": [{"name": "0"}]}')
    done = place.retrofit(place.plain, "plain", "plan.pth", "--plan", plan, "--overwrite")
    assert (done.code, "would replace what is read" in done.error) == (2, True)


def test_neither_of_two_that_are_compared_is_written_over(small: Path, place: Place) -> None:
    plain, pair = place.plain, (place.plain, small, "--trust-code")
    kept = shutil.copyfile(small, place.out / "inputs.safetensors")
    for more in (
        ("--certify", plain),
        ("--save-inputs", plain),
        ("--certify", small),
        ("--inputs", kept, "--save-inputs", kept),
        ("--certify", factory("plain").partition(":")[0], "-m", factory("plain")),
    ):
        done = run("verify", *pair, *more, "--overwrite")
        assert (done.code, "would replace what is read" in done.error) == (2, True), more


def test_a_page_or_picture_is_not_written_over_a_checkpoint(small: Path, place: Place) -> None:
    # What a file is called says nothing of what it is.
    odd = shutil.copyfile(small, place.out / "bn.html")
    for command in (
        ("report", odd, "-o", odd),
        ("report", small, "--against", odd, "-o", odd),
        ("plan", odd, "--graph", odd),
    ):
        done = run(*command, "--trust-code", "--overwrite")
        assert (done.code, "would replace what is read" in done.error) == (2, True), command
    assert odd.read_bytes() == small.read_bytes()


def test_timm_s_folder_is_not_exported_onto_itself(place: Place) -> None:
    save_file(tensors_of(place.plain), place.out / "model.safetensors")
    for given in (place.out, place.out / "model.safetensors"):
        done = run("export", given, *MODEL, "-o", place.out, "--format", "local-dir", "--overwrite")
        assert (done.code, "would replace what is read" in done.error) == (2, True)


def test_a_checkpoint_that_is_called_like_a_run_s_is_not_trained_where_it_lies(labelled: Path, place: Place) -> None:
    best = place.out / "best.safetensors"
    save_file(tensors_of(place.plain), best)
    before = best.read_bytes()
    done = run("finetune", best, *MODEL, "-d", labelled / "train", "-o", place.out, "--resume", "--epochs", 0)
    assert (done.code, "would replace what is read" in done.error, best.read_bytes() == before) == (2, True, True)
    begun = place.out / "retrofitted.safetensors"
    best.rename(begun)
    (place.out / "args.yaml").write_text("epochs: 0\n")
    done = run("run", begun, *MODEL, "-d", labelled / "train", "-o", place.out, "--resume", "--epochs", 0)
    assert (done.code, "would replace what is read" in done.error, begun.read_bytes() == before) == (2, True, True)
