"""--img-size, --mean, --std, --crop-pct, --interpolation: used, stored in the file, and taken from it again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.commands import factories
from tests.commands.running import (
    DIGITS,
    MODEL,
    TRAIN,
    Place,
    draw_images,
    factory,
    header_of,
    run,
    save_state,
    tensors_of,
)

ASKED = ("--img-size", 40, "--mean", "0.5,0.4,0.3", "--std", 0.25, "--crop-pct", 0.8, "--interpolation", "bicubic")
STORED = {
    "input_size": [3, 40, 40],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.25],
    "crop_pct": 0.8,
    "interpolation": "bicubic",
    "crop_mode": "center",
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("asked") / "bn.safetensors"
    assert run("retrofit", DIGITS, "-m", MODEL, "-d", TRAIN, "-n", 8, *ASKED, "-o", output).code == 0
    return output


def test_what_is_asked_for_is_stored(asked: Path) -> None:
    assert header_of(asked)["preprocessing"] == STORED


def test_what_is_stored_is_taken_again(asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnretrofit.workflows.images import batches_of

    used: list[Any] = []

    def watched(*given: Any) -> Any:
        used.append(given[1].to_json())
        return batches_of(*given)

    for module in ("comparing", "folding"):
        monkeypatch.setattr(f"bnretrofit.workflows.{module}.batches_of", watched)
    folded = tmp_path / "folded.safetensors"
    assert run("fold", asked, "-d", TRAIN, "-n", 4, "-o", folded).code == 0
    assert run("verify", DIGITS, asked, "-d", TRAIN, "-n", 4).code == 0
    assert header_of(folded)["preprocessing"] == STORED
    assert run("verify", asked, folded, "-d", TRAIN, "-n", 4, "--std", 0.5).code == 0
    wanted = {key: tuple(value) if isinstance(value, list) else value for key, value in STORED.items()}
    assert used == [wanted, wanted, {**wanted, "std": (0.5,)}]


def test_the_text_says_how_images_were_prepared(place: Place) -> None:
    done = place.retrofit(place.plain, "plain", "new.pth", "--mean", "0.5", "--std", "0.25 0.25 0.5")
    assert "preprocessing  RGB / 255, stored size, mean 0.5, std 0.25 0.25 0.5" in done.out


def measured_mean(place: Place, model: str, checkpoint: Path, *options: object) -> torch.Tensor:
    assert place.retrofit(checkpoint, model, "new.safetensors", "--overwrite", *options).code == 0
    return tensors_of(place.out / "new.safetensors")["0.norm.running_mean"]


def first_layer_mean(place: Place, mode: str, mean: float, std: float) -> torch.Tensor:
    pixels = []
    for path in sorted(place.images.glob("*.png")):
        with Image.open(path) as image:
            converted = image.convert(mode)
            raw = torch.frombuffer(bytearray(converted.tobytes()), dtype=torch.uint8)
            pixels.append(raw.view(converted.height, converted.width, -1).permute(2, 0, 1))
    batch = (torch.stack(pixels) / 255 - mean) / std
    layer = (factories.plain() if mode == "RGB" else factories.grey())[0]
    named = "plain.pth" if mode == "RGB" else "grey.pth"
    state = torch.load(place.folder / named, weights_only=True)
    layer.load_state_dict({"weight": state["0.weight"], "bias": state["0.bias"]})
    with torch.no_grad():
        result: torch.Tensor = layer(batch).mean((0, 2, 3))
    return result


def test_mean_and_std_reach_the_model(place: Place) -> None:
    found = measured_mean(place, "plain", place.plain, "--mean", 0.4, "--std", 0.2)
    torch.testing.assert_close(found, first_layer_mean(place, "RGB", 0.4, 0.2))


def test_a_factory_s_default_is_rgb_of_0_to_1_at_the_stored_size(place: Place) -> None:
    torch.testing.assert_close(measured_mean(place, "plain", place.plain), first_layer_mean(place, "RGB", 0.0, 1.0))


def test_a_model_whose_first_conv_takes_one_channel_gets_grey_images(place: Place) -> None:
    checkpoint = save_state(place.folder / "grey.pth", factories.grey())
    torch.testing.assert_close(measured_mean(place, "grey", checkpoint), first_layer_mean(place, "L", 0.0, 1.0))


def test_images_are_resized_to_the_size_asked_for(place: Place) -> None:
    draw_images(place.images, count=3, size=13)
    done = place.retrofit(place.plain, "plain", "new.safetensors", "--img-size", 10, "--json")
    assert done.document["plan"]["inputs"]["tensor"] == [1, 3, 10, 10]


def test_a_plan_is_made_for_the_size_asked_for() -> None:
    said = run("plan", factory("plain"), "--trust-code", "--img-size", 24, "--json").document
    assert said["inputs"]["tensor"] == [1, 3, 24, 24]
