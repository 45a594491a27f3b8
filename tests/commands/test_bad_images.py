"""Folders of images that cannot be worked with, and bad images that a user allows."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.commands.running import Outcome, Place, draw_images, factory, header_of, run


def refusal(place: Place, *more: object) -> str:
    done = place.retrofit(place.plain, "plain", "new.safetensors", *more)
    assert (done.code, place.outputs()) == (4, [])
    assert str(place.images) in done.error
    return done.error


def test_a_folder_that_is_not_there(place: Place) -> None:
    shutil.rmtree(place.images)
    assert "there is no such folder" in refusal(place)


def test_a_file_in_place_of_the_folder(place: Place) -> None:
    shutil.rmtree(place.images)
    place.images.write_text("no folder")
    assert "it is a file" in refusal(place)


def test_an_empty_folder(place: Place) -> None:
    shutil.rmtree(place.images)
    place.images.mkdir()
    assert "holds no image: it is empty" in refusal(place)


def test_a_folder_of_text_files(place: Place) -> None:
    for path in place.images.iterdir():
        path.rename(path.with_suffix(".txt"))
    assert "its 4 files are no images by their names" in refusal(place)


def test_text_files_among_the_images(place: Place) -> None:
    (place.images / "labels.csv").write_text("0.png,cat")
    said = refusal(place)
    assert "labels.csv" in said
    assert "--max-bad-images 1" in said


@pytest.mark.parametrize(("content", "why"), [(b"this is text", "no image of a format"), (b"", "it is empty")])
def test_an_image_that_cannot_be_read(place: Place, content: bytes, why: str) -> None:
    (place.images / "text.jpg").write_bytes(content)
    said = refusal(place)
    assert "text.jpg: an image cannot be read: " in said
    assert why in said


def test_an_image_whose_white_is_not_known(place: Place) -> None:
    Image.new("F", (8, 8), 0.5).save(place.images / "floats.tif")
    assert "floating-point" in refusal(place)


def test_huge_images_are_refused_and_large_ones_read_without_a_word(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pillow refuses what has twice as many pixels; these have 64.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31)
    assert "DecompressionBombError" in refusal(place)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32)
    done = place.retrofit(place.plain, "plain", "new.safetensors")
    assert (done.code, done.notes) == (0, [])


def test_an_image_cut_short(place: Place) -> None:
    image = place.images / "2.png"
    image.write_bytes(image.read_bytes()[:80])
    assert "2.png" in refusal(place)


def test_every_command_refuses_an_image_that_cannot_be_read(place: Place) -> None:
    (place.images / "text.jpg").write_text("this is text")
    model = ("-m", factory("plain"), "--trust-code", "-d", place.images)
    for done in (
        run("verify", place.plain, place.plain, *model),
        run("fold", place.plain, *model, "-o", place.out / "new.pth"),
    ):
        assert (done.code, place.outputs()) == (4, [])
        assert "text.jpg" in done.error


def allowed(place: Place, *more: object) -> Outcome:
    (place.images / "text.jpg").write_text("this is text")
    (place.images / "labels.csv").write_text("0.png,cat")
    return place.retrofit(place.plain, "plain", "new.safetensors", *more)


def test_bad_images_that_are_allowed_are_counted_listed_and_said(place: Place) -> None:
    done = allowed(place, "--max-bad-images", 2)
    assert done.code == 0
    calibration = header_of(place.out / "new.safetensors")["calibration"]
    assert (calibration["images"], calibration["bad_images_total"]) == (4, 2)
    assert [line.split(": ")[0] for line in calibration["bad_images"]] == ["text.jpg", "labels.csv"]
    assert str(place.folder) not in str(calibration)
    assert any("text.jpg" in note for note in done.notes)


def test_the_header_and_json_list_the_first_of_many_bad_images_and_count_all(place: Place) -> None:
    for index in range(25):
        (place.images / f"bad{index:02}.jpg").write_text("this is text")
    done = place.retrofit(place.plain, "plain", "new.safetensors", "--max-bad-images", 30, "--json")
    calibration: dict[str, Any] = header_of(place.out / "new.safetensors")["calibration"]
    assert done.document["calibration"] == calibration
    assert (calibration["images"], calibration["bad_images_total"]) == (4, 25)
    assert [line.split(":")[0] for line in calibration["bad_images"]] == [f"bad{index:02}.jpg" for index in range(20)]


def test_the_header_holds_a_digest_of_the_images_that_were_used(place: Place) -> None:
    assert allowed(place, "--max-bad-images", 2).code == 0
    used = [(name, (place.images / name).read_bytes()) for name in ("0.png", "1.png", "2.png", "3.png")]
    lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in used)
    calibration = header_of(place.out / "new.safetensors")["calibration"]
    assert calibration["images_sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def test_workers_count_bad_images_too(place: Place) -> None:
    done = allowed(place, "--max-bad-images", 2, "--workers", 1)
    assert done.code == 0
    assert header_of(place.out / "new.safetensors")["calibration"]["bad_images_total"] == 2


def test_more_bad_images_than_allowed_are_refused(place: Place) -> None:
    done = allowed(place, "--max-bad-images", 1)
    assert (done.code, place.outputs()) == (4, [])
    assert "text.jpg" in done.error


def test_a_folder_in_which_no_image_can_be_read(place: Place) -> None:
    for path in place.images.iterdir():
        path.write_text("this is text")
    bad = ("-m", factory("plain"), "--trust-code", "-d", place.images, "--max-bad-images", 9)
    for done in (
        run("retrofit", place.plain, *bad, "-o", place.out / "new.pth"),
        run("fold", place.plain, *bad, "-o", place.out / "new.pth"),
        run("verify", place.plain, place.plain, *bad),
    ):
        assert (done.code, place.outputs()) == (4, [])
        assert str(place.images) in done.error


def test_images_of_many_sizes_are_taken_at_their_stored_size(place: Place) -> None:
    for size in (6, 9, 12):
        draw_images(place.images / str(size), count=2, size=size)
    done = place.retrofit(place.plain, "plain", "new.safetensors", "-b", 3)
    assert done.code == 0
    assert "calibrated     10 images" in done.out


def test_images_too_small_for_the_model_are_refused(place: Place, tmp_path: Path) -> None:
    tiny = draw_images(tmp_path / "tiny", size=2)
    done = place.retrofit(place.plain, "plain", "new.safetensors", "-d", tiny)
    assert (done.code, place.outputs()) == (4, [])
    assert "error: " in done.err
    assert "Traceback" not in done.err
