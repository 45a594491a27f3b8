"""Folders of images that cannot be worked with, and bad images that a user allows."""

import shutil
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("content", [b"this is text", b""])
def test_an_image_that_cannot_be_read(place: Place, content: bytes) -> None:
    (place.images / "text.jpg").write_bytes(content)
    assert "text.jpg" in refusal(place)


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
    assert calibration["images"] == 4
    assert any(line.startswith("text.jpg: ") for line in calibration["bad_images"])
    assert any("text.jpg" in note for note in done.notes)


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
