"""`bnretrofit run`: all of it in one command, gone on with after each step, and what it refuses."""

from pathlib import Path

import pytest
import torch

from tests.commands import factories
from tests.commands.running import EPOCHS, Place, equal, factory, header_of, run, save_state, tensors_of


def test_one_command_does_all_of_it_and_goes_on_after_each_step(labelled: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = save_state(tmp_path / "plain.pth", factories.plain())
    data = ("-d", labelled / "train", "--val", labelled / "val", "-o", tmp_path / "run")
    whole = ("run", plain, "-m", factory("plain"), "--trust-code", *data, *EPOCHS)
    done = run(*whole, "--json")
    assert done.code == 0, done.err
    folded = tmp_path / "run" / "folded.safetensors"
    factories.plain().load_state_dict(tensors_of(folded), strict=True)
    assert done.document["report"]["passed"]
    assert done.document["done_before"] == []
    first = folded.read_bytes()
    # What the folder holds is told, and nothing of it chosen.
    refused = run("fold", tmp_path / "run", "--trust-code", "-o", tmp_path / "new.safetensors")
    assert refused.code == 4
    for name in ("retrofitted.safetensors", "training/best.safetensors", "folded.safetensors"):
        assert str(tmp_path / "run" / name) in refused.error
    folded.unlink()
    again = run(*whole, "--json", "--resume")
    assert again.code == 0, again.err
    assert again.document["done_before"] == ["retrofit"]
    assert folded.read_bytes() == first
    text = run(*whole, "--resume")
    assert [line.split()[0] for line in text.out.splitlines()[2:6]] == ["before", "best", "last", "folded"]


def test_run_takes_a_folder_of_splits_apart_for_calibration_too(labelled: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = save_state(tmp_path / "plain.pth", factories.plain())
    named = ("run", plain, "-m", factory("plain"), "--trust-code", *EPOCHS)
    told = run(*named, "-d", labelled / "train", "--val", labelled / "val", "-o", tmp_path / "told")
    found = run(*named, "-d", labelled, "-o", tmp_path / "found")
    assert (told.code, found.code) == (0, 0), found.err
    for name in ("retrofitted", "folded"):
        one, other = (tensors_of(tmp_path / way / f"{name}.safetensors") for way in ("told", "found"))
        assert equal(one, other), name


def test_run_goes_on_with_the_same_checkpoint_and_options_only(labelled: Path, tmp_path: Path) -> None:
    plains = []
    for seed in range(2):
        torch.manual_seed(seed)
        plains.append(save_state(tmp_path / f"plain{seed}.pth", factories.plain()))
    data = ("-d", labelled / "train", "-o", tmp_path / "run", "--epochs", 0)
    more = ("-m", factory("plain"), "--trust-code", *data, "--exclude", "0")
    assert run("run", plains[0], *more).code == 0
    args = (tmp_path / "run" / "args.yaml").read_bytes()
    other = run("run", plains[1], *more, "--resume")
    assert (other.code, "checkpoint was" in other.err) == (2, True)
    plains[0].write_bytes(plains[1].read_bytes())
    replaced = run("run", plains[0], *more, "--resume")
    assert (replaced.code, "another checkpoint" in replaced.err) == (2, True)
    changed = run("run", plains[0], *more, "--resume", "--weight-decay", 0.1)
    assert (changed.code, "weight-decay was None and is 0.1" in changed.err) == (2, True)
    assert (tmp_path / "run" / "args.yaml").read_bytes() == args
    # What it has written is what --config takes, with options that may be repeated in it.
    again = run("run", "--trust-code", "--config", tmp_path / "run" / "args.yaml", "-o", tmp_path / "again")
    assert again.code == 0, again.err
    assert list(header_of(tmp_path / "again" / "retrofitted.safetensors")["plan"]["sites"][0]["name"]) == ["2"]


def test_a_run_of_before_that_kept_the_permission_to_run_code_is_gone_on_with(labelled: Path, tmp_path: Path) -> None:
    plain = save_state(tmp_path / "plain.pth", factories.plain())
    data = ("-d", labelled / "train", "-o", tmp_path / "run", "--epochs", 0)
    whole = ("run", plain, "-m", factory("plain"), "--trust-code", *data)
    assert run(*whole).code == 0
    settings = tmp_path / "run" / "args.yaml"
    assert "trust-code" not in settings.read_text()
    settings.write_text(f"{settings.read_text()}trust-code: true\n")
    again = run(*whole, "--resume")
    assert again.code == 0, again.err


def test_run_goes_on_after_it_was_killed_before_the_first_state(labelled: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = save_state(tmp_path / "plain.pth", factories.plain())
    data = ("-d", labelled / "train", "-o", tmp_path / "run", "--epochs", 0)
    whole = ("run", plain, "-m", factory("plain"), "--trust-code", *data)
    assert run(*whole).code == 0
    folded = (tmp_path / "run" / "folded.safetensors").read_bytes()
    for name in (
        "training/state.safetensors",
        "training/summary.csv",
        "training/last.safetensors",
        "folded.safetensors",
    ):
        (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / "training" / ".args.yaml.new").touch()
    assert run(*whole, "--resume").code == 0
    assert (tmp_path / "run" / "folded.safetensors").read_bytes() == folded


def test_a_stream_is_refused_by_run(place: Place) -> None:
    model = ("-m", factory("plain"), "--trust-code")
    done = run("run", place.plain, *model, "-d", "hfds/some/where", "-o", place.out / "run")
    assert (done.code, "folder of training images" in done.err) == (2, True)


@pytest.mark.parametrize("damaged", [b"epochs: [", b"\xff\xfe", b"", b"- epochs\n"])
def test_run_names_options_that_it_cannot_read(damaged: bytes, labelled: Path, tmp_path: Path) -> None:
    plain = save_state(tmp_path / "plain.pth", factories.plain())
    whole = ("run", plain, "-m", factory("plain"), "--trust-code", "-d", labelled / "train", "-o", tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "args.yaml").write_bytes(damaged)
    done = run(*whole, "--resume")
    assert (done.code, "options cannot be read" in done.err, "args.yaml" in done.err) == (4, True, True), done.err
    assert (tmp_path / "run" / "args.yaml").read_bytes() == damaged
