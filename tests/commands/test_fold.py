"""`bnretrofit fold`: the original tensors come back, or what changed and what stayed is said."""

from pathlib import Path

import torch
from torch import Tensor

from tests.commands import factories
from tests.commands.running import (
    DIGITS,
    MODEL,
    VAL,
    Place,
    equal,
    factory,
    header_of,
    rewrite,
    run,
    save_state,
    tensors_of,
)


def test_the_original_tensors_come_back_bit_for_bit(retrofitted: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from checkpoints.digits_vgg11 import digits_vgg11

    output = tmp_path / "folded.safetensors"
    done = run("fold", retrofitted, "-d", VAL, "-n", 16, "-o", output)
    assert (done.code, done.notes) == (0, [])
    assert "folded         10 BatchNorms; 752 of 752 channels keep their weights bit for bit" in done.out
    assert equal(tensors_of(output), tensors_of(DIGITS))
    digits_vgg11().load_state_dict(load_file(output), strict=True)


def test_json_is_one_document(small: Path, place: Place) -> None:
    done = run("fold", small, "--trust-code", "-d", place.images, "-o", place.out / "folded.safetensors", "--json")
    said = done.document
    assert said.items() >= {"schema_version": 1, "command": "fold", "status": "ok", "exit_code": 0}.items()
    assert [fold["norm"] for fold in said["folds"]] == ["0.norm", "2.norm", "6.norm"]
    assert said["leaves"] == []
    assert said["report"]["proved"] is True
    assert header_of(place.out / "folded.safetensors")["stage"] == "folded"


def test_a_fold_without_images_says_what_it_was_verified_on(small: Path, place: Place) -> None:
    done = run("fold", small, "--trust-code", "-o", place.out / "folded.pth")
    assert done.code == 0
    assert done.notes == ["no images were given (-d): verified by graph, tensors and random inputs"]
    assert equal(tensors_of(place.out / "folded.pth"), tensors_of(small.parents[1] / "plain.pth"))


def test_a_retrofitted_pth_which_has_no_header_is_folded_with_m(place: Place) -> None:
    assert place.retrofit(place.plain, "plain", "bn.pth").code == 0
    folded = place.out / "folded.pth"
    done = run("fold", place.out / "bn.pth", "-m", factory("plain"), "--trust-code", "-o", folded)
    assert done.code == 0
    assert equal(tensors_of(folded), tensors_of(place.plain))


def test_a_twin_is_folded_back_into_the_stock_architecture(place: Place) -> None:
    assert place.retrofit(place.plain, "plain", "bn.safetensors", "--like", factory("plain_bn")).code == 0
    folded = place.out / "folded.safetensors"
    like = ("--like", factory("plain"), "--trust-code")
    assert run("fold", place.out / "bn.safetensors", *like, "-o", folded).code == 0
    assert equal(tensors_of(folded), tensors_of(place.plain))
    assert header_of(folded)["model"] == factory("plain")


def test_norms_of_a_network_s_own_are_folded_like_the_network_without(place: Place) -> None:
    checkpoint = save_state(place.folder / "own.pth", factories.plain_bn())
    model, folded = ("-m", factory("plain_bn"), "--trust-code"), place.out / "folded.pth"
    done = run("fold", checkpoint, *model, "--like", factory("plain"), "-d", place.images, "-o", folded)
    assert done.code == 0
    assert "folded         2 BatchNorms; 0 of 10 channels" in done.out
    original, result = factories.plain_bn(), factories.plain()
    original.load_state_dict(tensors_of(checkpoint))
    result.load_state_dict(tensors_of(folded), strict=True)
    images = torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(result.eval()(images), original.eval()(images), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_folded_stays_and_is_named(place: Place) -> None:
    checkpoint = save_state(place.folder / "own.pth", factories.unfoldable())
    model, output = ("-m", factory("unfoldable"), "--trust-code"), place.out / "folded.safetensors"
    done = run("fold", checkpoint, *model, "-o", output)
    assert done.code == 0
    (line,) = [line for line in done.out.splitlines() if line.startswith("first ")]
    assert "BatchNorm2d" in line
    assert "it is the model's own" in line
    said = run("fold", output, "--trust-code", "-o", place.out / "again.safetensors", "--json").document
    assert [leave["name"] for leave in said["leaves"]] == ["first"]
    assert said["folds"] == []


def test_a_new_bias_is_said_and_the_file_opens_again(place: Place) -> None:
    checkpoint = save_state(place.folder / "own.pth", factories.bias_free())
    model, folded = ("-m", factory("bias_free"), "--trust-code"), place.out / "folded.safetensors"
    done = run("fold", checkpoint, *model, "-d", place.images, "-o", folded)
    assert done.code == 0
    assert "new key        0.bias" in done.out
    assert "0.bias" in tensors_of(folded)
    assert run("verify", checkpoint, folded, *model, "-d", place.images).code == 0
    assert run("fold", folded, "--trust-code", "-o", place.out / "again.safetensors").code == 0


def test_a_folded_file_can_be_retrofitted_opened_and_folded_again(place: Place) -> None:
    checkpoint = save_state(place.folder / "own.pth", factories.bias_free())
    folded, again, back = (place.out / f"{name}.safetensors" for name in ("folded", "again", "back"))
    assert run("fold", checkpoint, "-m", factory("bias_free"), "--trust-code", "-o", folded).code == 0
    assert run("retrofit", folded, "--trust-code", "-d", place.images, "-o", again).code == 0
    assert run("verify", folded, again, "--trust-code", "-d", place.images).code == 0
    assert run("fold", again, "--trust-code", "-o", back).code == 0
    assert equal(tensors_of(folded), tensors_of(back))


def test_a_norm_that_was_trained_on_gives_its_bias_free_layer_a_new_key(place: Place) -> None:
    checkpoint = save_state(place.folder / "own.pth", factories.bias_free())
    assert place.retrofit(checkpoint, "bias_free", "bn.safetensors").code == 0

    def train(tensors: dict[str, Tensor]) -> None:
        tensors["3.norm.bias"] += 0.25

    trained = rewrite(place.out / "bn.safetensors", place.folder / "trained.safetensors", train)
    folded = place.out / "folded.safetensors"
    done = run("fold", trained, "--trust-code", "-d", place.images, "-o", folded)
    assert done.code == 0
    assert "new key        3.bias" in done.out
    assert run("verify", trained, folded, "--trust-code", "-d", place.images).code == 0


def test_a_scale_beyond_the_limit_is_refused_unless_forced(small: Path, place: Place) -> None:
    def explode(tensors: dict[str, Tensor]) -> None:
        tensors["2.norm.weight"] *= 1e6

    wild = rewrite(small, place.folder / "wild.safetensors", explode)
    command = ("fold", wild, "--trust-code", "-o", place.out / "folded.safetensors")
    done = run(*command)
    assert (done.code, place.outputs()) == (4, [])
    assert "2.norm" in done.error
    assert run(*command, "--force").code == 0


def test_an_unlikely_scale_below_the_limit_is_told(small: Path, place: Place) -> None:
    def strengthen(tensors: dict[str, Tensor]) -> None:
        tensors["2.norm.weight"] *= 200

    for change, told in ((strengthen, True), (dict, False)):
        trained = rewrite(small, place.folder / "trained.safetensors", change)
        done = run("fold", trained, "--trust-code", "-o", place.out / "folded.safetensors", "--overwrite")
        assert done.code == 0, done.err
        assert any("'2.norm' scales a channel by 200" in text for text in done.notes) is told


def test_own_norms_under_the_names_of_inserted_ones_are_told_apart(place: Place) -> None:
    checkpoint = save_state(place.folder / "own.pth", factories.blocks())
    done = run("fold", checkpoint, "-m", factory("blocks"), "--trust-code", "-o", place.out / "folded.safetensors")
    assert (done.code, done.err.count("error")) == (0, 0)


def test_a_network_without_norms_is_left_as_it_is(place: Place) -> None:
    folded = place.out / "folded.pth"
    done = run("fold", place.plain, "-m", factory("plain"), "--trust-code", "-o", folded)
    assert done.code == 0
    assert "folded         nothing" in done.out
    assert equal(tensors_of(folded), tensors_of(place.plain))


def test_the_bundled_model_s_name_stays_in_the_header(retrofitted: Path, tmp_path: Path) -> None:
    output = tmp_path / "folded.safetensors"
    assert run("fold", retrofitted, "-o", output).code == 0
    header = header_of(output)
    assert (header["model"], header["plan"]) == (MODEL, None)
    assert header["source"]["file"] == retrofitted.name
