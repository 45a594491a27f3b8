"""`bnretrofit retrofit`: what it writes, what it prints, and that it does the same thing twice."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import factories
from tests.commands.running import (
    DIGITS,
    MODEL,
    TRAIN,
    VAL,
    Place,
    draw_images,
    equal,
    factory,
    header_of,
    run,
    save_state,
    tensors_of,
)


def test_the_file_holds_the_original_tensors_and_identity_norms(retrofitted: Path) -> None:
    before, after = tensors_of(DIGITS), tensors_of(retrofitted)
    kept = {name.replace(".layer.", "."): tensor for name, tensor in after.items() if ".norm." not in name}
    assert equal(before, kept)
    assert sum(name.endswith(".norm.running_mean") for name in after) == 10


def test_the_header_says_where_the_file_comes_from(retrofitted: Path) -> None:
    import hashlib

    header = header_of(retrofitted)
    assert header["schema_version"] == 1
    assert (header["stage"], header["model"]) == ("retrofitted", MODEL)
    assert header["source"] == {"file": DIGITS.name, "sha256": hashlib.sha256(DIGITS.read_bytes()).hexdigest()}
    assert len(header["plan"]["sites"]) == 10
    assert header["preprocessing"]["input_size"] == [3, 32, 32]
    assert header["calibration"].items() >= {"images": 40, "bad_images": [], "seed": 0}.items()
    assert header["versions"]["torch"] == torch.__version__.split("+")[0]


def test_text_says_what_was_done(place: Place) -> None:
    done = place.retrofit(place.plain, "plain", "new.safetensors")
    assert done.code == 0
    assert done.notes == []
    for words in (
        "model          ",
        "calibrated     4 images",
        "inserted       3 BatchNorms",
        "1 layer",
        "PASSED: proved",
    ):
        assert words in done.out
    assert f"wrote          {place.out / 'new.safetensors'}" in done.out
    assert place.outputs() == ["new.safetensors"]


def test_json_is_one_document(place: Place) -> None:
    done = place.retrofit(place.plain, "plain", "new.safetensors", "--json")
    said = done.document
    assert said.items() >= {"schema_version": 1, "command": "retrofit", "status": "ok", "exit_code": 0}.items()
    assert (said["sites"], said["calibration_images"]) == (3, 4)
    assert said["output"] == str(place.out / "new.safetensors")
    assert said["report"]["proved"] is True


def test_a_factory_that_prints_does_not_spoil_the_json(place: Place) -> None:
    done = place.retrofit(place.plain, "talkative", "new.safetensors", "--json")
    assert done.document["status"] == "ok"
    assert run("plan", factory("talkative"), "--trust-code", "--json").document["status"] == "ok"


def test_a_pth_is_a_plain_state_dict_that_loads_strictly(place: Place) -> None:
    assert place.retrofit(place.plain, "plain", "new.pth", "--like", factory("plain_bn")).code == 0
    twin = factories.plain_bn()
    twin.load_state_dict(torch.load(place.out / "new.pth", weights_only=True), strict=True)
    original = factories.plain()
    original.load_state_dict(torch.load(place.plain, weights_only=True))
    images = torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(twin.eval()(images), original.eval()(images))


def test_weights_of_the_library_need_no_checkpoint(place: Place) -> None:
    output = place.out / "new.safetensors"
    done = run("retrofit", "-m", MODEL, "--weights", "DEFAULT", "-d", TRAIN, "-n", 8, "-o", output)
    assert done.code == 0
    assert header_of(output)["source"] == {"file": None, "sha256": None}
    assert torch.equal(tensors_of(output)["features.0.layer.weight"], tensors_of(DIGITS)["features.0.weight"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_same_command_twice_writes_the_same_bytes(place: Place, suffix: str) -> None:
    written = []
    for folder in ("first", "second"):
        (place.out / folder).mkdir()
        assert place.retrofit(place.plain, "plain", f"{folder}/new{suffix}", "-n", 3, "--seed", 5).code == 0
        written.append((place.out / folder / f"new{suffix}").read_bytes())
    assert written[0] == written[1]


def test_the_seed_draws_the_images(place: Place) -> None:
    draw_images(place.images, count=12)
    headers: list[Any] = []
    for seed in (0, 1):
        assert place.retrofit(place.plain, "plain", f"{seed}.safetensors", "-n", 3, "--seed", seed).code == 0
        headers.append(header_of(place.out / f"{seed}.safetensors")["calibration"])
    assert [header["images"] for header in headers] == [3, 3]
    assert headers[0]["names_sha256"] != headers[1]["names_sha256"]


def test_a_tensor_outside_parameters_and_buffers_is_kept(place: Place) -> None:
    checkpoint = save_state(place.folder / "centred.pth", factories.centred())
    assert place.retrofit(checkpoint, "centred", "new.safetensors").code == 0


def test_tied_weights_are_written_under_both_names(place: Place) -> None:
    checkpoint = save_state(place.folder / "tied.pth", factories.tied())
    assert place.retrofit(checkpoint, "tied", "new.safetensors").code == 0
    written = tensors_of(place.out / "new.safetensors")
    assert torch.equal(written["a.weight"], written["b.weight"])
    assert run("fold", place.out / "new.safetensors", "--trust-code", "-o", place.out / "back.safetensors").code == 0
    assert equal(tensors_of(place.out / "back.safetensors"), tensors_of(checkpoint))


def test_a_retrofitted_file_is_not_retrofitted_again(small: Path, place: Place) -> None:
    done = run("retrofit", small, "--trust-code", "-d", VAL, "-o", place.out / "again.safetensors")
    assert done.code == 2
    assert "retrofitted already" in done.error


def test_the_number_of_classes_is_remembered_for_a_twin(place: Place) -> None:
    checkpoint = save_state(place.folder / "seven.pth", factories.plain(7))
    assert place.retrofit(checkpoint, "plain", "seven.safetensors", "--num-classes", 7).code == 0
    folded = place.out / "folded.safetensors"
    assert run("fold", place.out / "seven.safetensors", "--trust-code", "-o", folded).code == 0
    assert place.retrofit(folded, "plain", "twin.safetensors", "--like", factory("plain_bn")).code == 0
