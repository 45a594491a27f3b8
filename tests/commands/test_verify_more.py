"""`bnretrofit verify`: layer by layer, uphill, in training mode, with inputs kept and with a certificate."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.commands.running import DIGITS, VAL, Place, factory, rewrite, run, tensors_of


def plain_of(small: Path) -> Path:
    return small.parents[1] / "plain.pth"


def off_by_half(name: str) -> Any:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] *= 1.5

    return change


@pytest.fixture
def wrong(small: Path, tmp_path: Path) -> Path:
    """The retrofitted file with the weights of its second layer half as large again."""
    weights = [name for name in tensors_of(small) if name.endswith("layer.weight")]
    return rewrite(small, tmp_path / "wrong.safetensors", off_by_half(sorted(weights)[1]))


def test_each_layer_is_shown_with_its_error_beside_its_rounding(small: Path, place: Place) -> None:
    done = run("verify", plain_of(small), small, "--trust-code", "-d", place.images, "--per-layer", "--json")
    layers = done.document["report"]["layers"]
    assert done.code == 0
    assert [layer["max_abs_error"] for layer in layers] == [0.0] * len(layers)
    assert all(0 < layer["floor"] < 1e-5 for layer in layers)
    assert len(layers) == len([name for name, tensor in tensors_of(plain_of(small)).items() if tensor.dim() > 1])
    text = run("verify", plain_of(small), small, "--trust-code", "-d", place.images, "--per-layer").out
    assert text.splitlines()[0].split() == ["layer", "of", "B", "of", "A", "error", "relative", "rounding"]
    assert "divergence  none beyond rounding" in text


def test_the_first_layer_that_diverges_is_told(small: Path, wrong: Path, place: Place) -> None:
    done = run("verify", plain_of(small), wrong, "--trust-code", "-d", place.images, "--per-layer")
    assert done.code == 3
    rows = [line for line in done.out.splitlines() if line.endswith("diverges")]
    first = rows[0].split()[0].removesuffix(".norm")
    assert f"divergence  from {first}.norm on" in done.out
    assert f"layer       {first}.layer" in done.out


def test_the_reference_s_own_rounding_and_extreme_inputs_are_told(place: Place) -> None:
    done = run("verify", DIGITS, DIGITS, "-m", "bnretrofit:digits_vgg11", "-d", VAL, "-n", 8, "--adversarial", 2)
    assert done.code == 0
    assert "  floor       relative " in done.out
    for kind in ("zeros 0", "ones 0", "huge 0", "denormal 0", "saturated 0", "adversarial 0"):
        assert kind in done.out


def test_training_mode_tells_drift_by_batch_size(retrofitted: Path) -> None:
    done = run("verify", DIGITS, retrofitted, "-d", VAL, "-n", 40, "--mode", "train", "--json")
    drift = done.document["report"]["drift"]
    assert [entry["batch_size"] for entry in drift] == [2, 8, 32]
    assert drift[0]["relative_rms"] > drift[2]["relative_rms"] > 0


def test_inputs_that_are_kept_show_the_difference_again(small: Path, wrong: Path, place: Place) -> None:
    kept = place.out / "worst.safetensors"
    command = ("verify", plain_of(small), wrong, "--trust-code", "-d", place.images, "--save-inputs", kept, "--json")
    done = run(*command)
    assert (done.code, done.document["inputs"]) == (3, str(kept))
    worst = tensors_of(kept)
    assert {"given", "random"} <= worst.keys()
    report = done.document["report"]
    again = run("verify", plain_of(small), wrong, "--trust-code", "--inputs", kept, "--json").document["report"]
    assert again["samples"] == len(worst)
    given = next(tried for tried in report["tried"] if tried["kind"] == "given")
    assert again["max_abs_error"] >= given["max_abs_error"]
    # A file that is there is not replaced.
    refused = run(*command)
    assert (refused.code, refused.document["error"]["kind"]) == (2, "UsageError")
    assert torch.equal(tensors_of(kept)["given"], worst["given"])


def test_inputs_and_images_exclude_each_other(small: Path, place: Place) -> None:
    command = ("verify", plain_of(small), small, "--trust-code", "-d", place.images)
    assert run(*command, "--inputs", place.out / "no-such-file.safetensors").code == 2


def test_without_images_layers_are_compared_on_random_inputs(small: Path, wrong: Path) -> None:
    done = run("verify", plain_of(small), wrong, "--trust-code", "--per-layer", "--adversarial", 3, "--json")
    report = done.document["report"]
    assert report["layers"]
    tried = {kind["kind"]: kind for kind in report["tried"]}
    assert tried["adversarial"]["max_rel_error"] > tried["random"]["max_rel_error"]


def test_of_equal_files_no_input_is_kept(small: Path, place: Place) -> None:
    kept = place.out / "worst.safetensors"
    done = run("verify", plain_of(small), small, "--trust-code", "-d", place.images, "--save-inputs", kept)
    assert done.code == 0
    assert "none kept" in done.out
    assert not kept.exists()


@pytest.fixture
def certificate(small: Path, place: Place) -> Path:
    path = place.out / "proof.json"
    assert run("verify", plain_of(small), small, "--trust-code", "-d", place.images, "--certify", path).code == 0
    return path


def test_a_certificate_says_what_was_proved_channel_by_channel(certificate: Path, small: Path) -> None:
    said = json.loads(certificate.read_text())
    assert said["proved"] is True
    assert {norm["model"] for norm in said["norms"]} == {"b"}
    for norm in said["norms"]:
        assert norm["channels"] == len(tensors_of(small)[f"{norm['name']}.weight"])
        assert (norm["identity_channels"], norm["factors"], norm["summands"]) == (norm["channels"], 1.0, 0.0)
    assert all(tensor["equal"] and tensor["a_sha256"] == tensor["b_sha256"] for tensor in said["tensors"])
    assert {tensor["a"] for tensor in said["tensors"]} == tensors_of(plain_of(small)).keys()


def test_a_certificate_is_checked_without_images(certificate: Path, small: Path) -> None:
    done = run("verify", plain_of(small), small, "--trust-code", "--certificate", certificate)
    assert done.code == 0
    assert done.out.startswith("HOLDS: proved equal for every finite input")
    document = run("verify", plain_of(small), small, "--trust-code", "--certificate", certificate, "--json").document
    assert (document["proved"], document["exit_code"]) == (True, 0)
    assert document["channels"] == document["identity_channels"] > 0


def test_a_certificate_does_not_hold_for_other_files(certificate: Path, small: Path, wrong: Path) -> None:
    for b in (wrong, plain_of(small)):
        command = ("verify", plain_of(small), b, "-m", factory("plain"), "--trust-code", "--certificate", certificate)
        done = run(*command)
        assert done.code == 3
        assert "one of other files" in done.error


def put(*path: Any) -> Callable[[Any], None]:
    """Puts the last of these at the place that the others name."""

    def edit(document: Any) -> None:
        for key in path[:-2]:
            document = document[key]
        document[path[-2]] = path[-1]

    return edit


EDITS: dict[str, Callable[[Any], None]] = {
    "proved": put("proved", False),
    "difference": put("difference", "none to speak of"),
    "factor": put("norms", 0, "factors", 1.0000001),
    "tensor": put("tensors", 0, "b_sha256", "0" * 64),
    "file": put("files", 1, "sha256", "0" * 64),
    "stage": put("files", 1, "stage", "folded"),
    "kernel": put("kernel", "torch", "0"),
    "inputs": put("inputs", "tensor", [2, 3, 8, 8]),
    "norm": lambda document: document["norms"].pop(),
    "lacking": lambda document: document.pop("norms"),
    "other": lambda document: document.clear(),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_certificate_that_was_edited_does_not_hold(certificate: Path, small: Path, edit: Any) -> None:
    document = json.loads(certificate.read_text())
    edit(document)
    certificate.write_text(json.dumps(document))
    done = run("verify", plain_of(small), small, "--trust-code", "--certificate", certificate)
    assert done.code == 3
    assert "does not hold" in done.error


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_what_is_no_certificate_is_refused(certificate: Path, small: Path, text: str) -> None:
    certificate.write_text(text)
    done = run("verify", plain_of(small), small, "--trust-code", "--certificate", certificate)
    assert done.code == 4
    assert "cannot be read" in done.error


def test_nothing_is_certified_of_files_that_differ(small: Path, wrong: Path, place: Place) -> None:
    path = place.out / "proof.json"
    done = run("verify", plain_of(small), wrong, "--trust-code", "-d", place.images, "--certify", path)
    assert done.code == 3
    assert not path.exists()
