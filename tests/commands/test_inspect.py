"""`bnretrofit inspect`, and training checkpoints through the commands."""

import argparse
from pathlib import Path

import pytest
import torch

from tests.commands import factories
from tests.commands.running import DIGITS, Place, factory, header_of, run, save_state, tensors_of


def test_a_file_of_ours_tells_where_it_comes_from(retrofitted: Path) -> None:
    done = run("inspect", retrofitted)
    assert done.code == 0
    for words in (
        "the file is as it was written",
        "retrofitted",
        "bnretrofit:digits_vgg11",
        DIGITS.name,
        "10 BatchNorms",
    ):
        assert words in done.out
    document = run("inspect", retrofitted, "--json").document
    assert (document["command"], document["status"], document["exit_code"]) == ("inspect", "ok", 0)
    header = {key: value for key, value in header_of(retrofitted).items() if key != "digest"}
    assert document["header"] == header
    assert document["digest_checked"] is True
    assert {entry["name"] for entry in document["tensors"]} == set(tensors_of(retrofitted))


def test_a_file_from_elsewhere_tells_its_tensors(place: Place) -> None:
    done = run("inspect", place.plain)
    assert done.code == 0
    assert "another tool" in done.out
    assert "torch.save" in done.out
    assert "6x4x3x3" in done.out
    assert run("inspect", place.plain, "--json").document["header"] is None


def test_a_changed_byte_is_refused_with_4(place: Place, retrofitted: Path) -> None:
    changed = place.folder / "changed.safetensors"
    content = bytearray(retrofitted.read_bytes())
    content[-5] ^= 1
    changed.write_bytes(content)
    for command in (
        ("inspect", changed),
        ("verify", retrofitted, changed),
        ("fold", changed, "-o", place.out / "x.pth"),
    ):
        done = run(*command)
        assert done.code == 4
        assert "does not match the digest that it bears" in done.error
    assert place.outputs() == []


def test_control_characters_in_names_do_not_reach_the_terminal(place: Place) -> None:
    state = {"\x1b]0;owned\x07weight\r\n": torch.ones(2), "0.weight": torch.ones(2)}
    torch.save(state, place.folder / "odd.pth")
    done = run("inspect", place.folder / "odd.pth")
    assert done.code == 0
    assert "\\x1b]0;owned\\x07weight\\r\\n" in done.out
    wrong = place.retrofit(place.folder / "odd.pth", "plain", "new.pth")
    assert wrong.code == 4
    assert "\x1b" not in wrong.err + done.out


@pytest.fixture
def training(place: Place) -> Path:
    """A checkpoint as a trainer leaves it: other weights, averaged ones, and its options."""
    torch.manual_seed(5)
    state, averaged = factories.plain().state_dict(), factories.plain().state_dict()
    content = {
        "epoch": 3,
        "model": {f"module.{key}": value for key, value in state.items()},
        "model_ema": averaged,
        "args": argparse.Namespace(lr=0.1),
    }
    torch.save(content, place.folder / "model_3.pth")
    return place.folder / "model_3.pth"


def test_a_training_checkpoint_is_retrofitted_and_told_what_was_taken(place: Place, training: Path) -> None:
    content = torch.load(training, weights_only=False)
    for number, (choice, wanted, words) in enumerate(
        [
            ((), content["model_ema"], "'model_ema'"),
            (("--no-use-ema",), content["model"], "'model'"),
            (("--state-dict-key", "model"), content["model"], "stripped 'module.'"),
        ]
    ):
        done = place.retrofit(training, "plain", f"{number}.pth", *choice)
        assert done.code == 0, done.err
        assert any(words in note for note in done.notes)
        plain = {key.removeprefix("module."): value for key, value in wanted.items()}
        assert torch.equal(tensors_of(place.out / f"{number}.pth")["0.layer.weight"], plain["0.weight"])
    done = place.retrofit(training, "plain", "json.pth", "--json")
    assert any("'model_ema'" in note for note in done.document["notes"])
    assert place.retrofit(training, "plain", "none.pth", "--state-dict-key", "optimizer").code == 2


def test_a_head_of_another_size_is_taken_from_the_tensor(place: Place) -> None:
    checkpoint = save_state(place.folder / "seven.pth", factories.plain(7))
    done = place.retrofit(checkpoint, "plain", "seven.safetensors")
    assert done.code == 0, done.err
    assert any("7 outputs" in note for note in done.notes)
    assert header_of(place.out / "seven.safetensors")["num_classes"] == 7
    folded = run("fold", place.out / "seven.safetensors", "--trust-code", "-o", place.out / "folded.pth")
    assert folded.code == 0, folded.err
    assert torch.equal(tensors_of(place.out / "folded.pth")["8.weight"], tensors_of(checkpoint)["8.weight"])


def test_a_head_of_another_size_that_the_model_cannot_have_is_refused(place: Place) -> None:
    checkpoint = save_state(place.folder / "seven.pth", factories.plain(7))
    done = place.retrofit(checkpoint, "padded_otherwise", "seven.safetensors")
    assert (done.code, place.outputs()) == (4, [])
    assert "'8.weight' is (7, 8), not (3, 8)" in done.error


def test_a_wrong_size_within_the_network_is_no_head(place: Place) -> None:
    state = factories.plain().state_dict()
    state["2.weight"] = torch.ones(5, 4, 3, 3)
    torch.save(state, place.folder / "wrong.pth")
    done = place.retrofit(place.folder / "wrong.pth", "plain", "new.pth")
    assert (done.code, place.outputs()) == (4, [])
    assert "'2.weight' is (5, 4, 3, 3), not (6, 4, 3, 3)" in done.error


def test_a_folder_is_taken_for_what_it_holds(place: Place, retrofitted: Path) -> None:
    run_folder = place.folder / "run"
    run_folder.mkdir()
    (run_folder / "best.safetensors").write_bytes(retrofitted.read_bytes())
    done = run("verify", retrofitted, run_folder)
    assert done.code == 0, done.err
    assert any("took best.safetensors" in note for note in done.notes)
    assert factory("plain") not in done.out


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_another_precision_is_told(place: Place, dtype: torch.dtype) -> None:
    state = {key: value.to(dtype) for key, value in factories.plain().state_dict().items()}
    torch.save(state, place.folder / "other.pth")
    done = place.retrofit(place.folder / "other.pth", "plain", "new.pth")
    assert done.code == 0, done.err
    wanted = f"8 of the file's tensors are {str(dtype).removeprefix('torch.')}; the network and the output are float32"
    assert any(note.startswith(wanted) for note in done.notes)
    assert not place.retrofit(place.plain, "plain", "same.pth").notes
