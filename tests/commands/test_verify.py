"""`bnretrofit verify`: it accepts what is equal, and rejects and names what is not."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from bnretrofit import Report
from tests.commands.running import DIGITS, MODEL, VAL, Place, draw_images, factory, rewrite, run, tensors_of


def top1(images: Path) -> float:
    """The bundled model's accuracy, counted without the library under test."""
    from checkpoints.digits_vgg11 import PREPROCESSING, digits_vgg11

    model = digits_vgg11().eval()
    model.load_state_dict(tensors_of(DIGITS))
    mean, std = (torch.tensor(PREPROCESSING[key]).view(3, 1, 1) for key in ("mean", "std"))
    paths = sorted(images.rglob("*.png"))
    pixels = []
    for path in paths:
        with Image.open(path) as image:
            enlarged = image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        pixels.append(torch.frombuffer(bytearray(enlarged.tobytes()), dtype=torch.uint8).view(32, 32, 3))
    with torch.no_grad():
        found = model((torch.stack(pixels).permute(0, 3, 1, 2) / 255 - mean) / std).argmax(1)
    return sum(int(digit) == int(path.parent.name) for digit, path in zip(found, paths, strict=True)) / len(paths)


def test_a_retrofitted_file_is_proved_equal_and_as_accurate(retrofitted: Path) -> None:
    done = run("verify", DIGITS, retrofitted, "-d", VAL)
    assert (done.code, done.notes) == (0, [])
    assert "PASSED: proved equal for every finite input; bit-identical on 360 samples" in done.out
    share = f"{100 * top1(VAL):.2f} %"
    assert f"accuracy    top-1 {share} and {share}" in done.out


def test_json_has_all_of_the_report_s_names(small: Path, place: Place) -> None:
    done = run("verify", place.plain, small, "--trust-code", "-d", place.images, "--json")
    said = done.document
    assert said.items() >= {"schema_version": 1, "command": "verify", "status": "ok", "exit_code": 0}.items()
    assert set(said["report"]) == {item.name for item in dataclasses.fields(Report)}
    assert (said["report"]["proved"], said["report"]["samples"], said["accuracy"]) == (True, 4, None)


def scaled(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] *= 1.01

    return change


def test_any_one_layer_s_weights_off_by_one_percent_fail_and_are_named(small: Path, place: Place) -> None:
    layers = [name for name, tensor in tensors_of(small).items() if name.endswith("weight") and tensor.dim() > 1]
    assert len(layers) == 4
    for name in layers:
        other = rewrite(small, place.folder / "other.safetensors", scaled(name))
        done = run("verify", small.parents[1] / "plain.pth", other, "--trust-code", "-d", place.images, "--json")
        assert (done.code, done.document["exit_code"], done.document["status"]) == (3, 3, "failed")
        report = done.document["report"]
        assert (report["passed"], report["proved"], report["layer"]) == (False, False, name.removesuffix(".weight"))
        assert name in report["reason"]


@pytest.mark.parametrize("layer", ["features.0.layer", "features.11.layer", "classifier.6"])
def test_a_layer_of_the_bundled_network_off_by_one_percent_is_named_in_text(
    retrofitted: Path, tmp_path: Path, layer: str
) -> None:
    other = rewrite(retrofitted, tmp_path / "other.safetensors", scaled(f"{layer}.weight"))
    done = run("verify", DIGITS, other, "-d", VAL, "-n", 8)
    assert done.code == 3
    assert done.out.startswith("FAILED: not proved; not bit-identical")
    assert f"  layer       {layer}\n" in done.out
    assert "  reason      " in done.out


def test_equal_tensors_with_another_padding_are_not_proved(place: Place) -> None:
    models = ("-m", factory("plain"), "--model-b", factory("padded_otherwise"), "--trust-code")
    done = run("verify", place.plain, place.plain, *models, "-d", place.images, "--json")
    report = done.document["report"]
    assert (done.code, report["passed"], report["proved"]) == (3, False, False)
    assert report["difference"]
    assert report["layer"] == "0"


def test_tolerances_decide_where_weights_agree_roughly(place: Place) -> None:
    other = place.folder / "other.pth"
    torch.save({name: tensor * (1 + 1e-5) for name, tensor in tensors_of(place.plain).items()}, other)
    command = ("verify", place.plain, other, "-m", factory("plain"), "--trust-code", "-d", place.images, "--json")
    done = run(*command)
    report = done.document["report"]
    assert (done.code, report["passed"], report["proved"], report["bit_identical"]) == (0, True, False, False)
    required = report["required_rtol"]
    assert 0 < required < 1e-4
    assert run(*command, "--rtol", required * 0.9).code == 3
    assert run(*command, "--rtol", required * 1.1).code == 0


def test_without_images_random_inputs_alone_are_tried_and_that_is_said(small: Path) -> None:
    done = run("verify", small.parents[1] / "plain.pth", small, "--trust-code")
    assert done.code == 0
    assert done.notes == ["no images were given (-d): random and extreme inputs alone were tried"]
    assert "accuracy" not in done.out


def test_the_order_of_the_files_does_not_matter(small: Path) -> None:
    assert run("verify", small, small.parents[1] / "plain.pth", "--trust-code").code == 0


def test_a_file_s_header_wins_over_m_with_a_note(small: Path, place: Place) -> None:
    done = run("verify", small, small, "-m", MODEL, "--trust-code", "-d", place.images)
    assert done.code == 0
    assert done.notes
    assert all(f"the file says it is {factory('plain')}; -m {MODEL} was not used" in note for note in done.notes)


def test_accuracy_is_counted_in_class_folders_only(place: Place) -> None:
    for name in ("cat", "dog", "fox"):
        draw_images(place.folder / "classes" / name, count=2)
    command = ("verify", place.plain, place.plain, "-m", factory("plain"), "--trust-code", "--json")
    shares = run(*command, "-d", place.folder / "classes").document["accuracy"]
    assert shares[0] == shares[1]
    assert shares[0] * 6 == pytest.approx(round(shares[0] * 6))
    draw_images(place.folder / "classes" / "owl", count=2)
    other = run(*command, "-d", place.folder / "classes").document
    assert other["accuracy"] is None
    assert other["notes"] == ["accuracy is not told: the images have 4 classes, not the models' 3"]
    allowing = run(*command, "-d", place.folder / "classes", "--max-bad-images", 1).document
    assert allowing["notes"] == ["accuracy is not told where images may be left out (--max-bad-images)"]
    without = run(*command, "-d", place.images).document
    assert (without["accuracy"], without["notes"]) == (None, [])
