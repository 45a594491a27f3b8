"""Images that cannot be read, or do not fit with the others of a batch."""

from dataclasses import replace
from pathlib import Path

import pytest

from bnretrofit.errors import InputRejectedError
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training_data import TrainingSource, open_training
from tests.library.class_folders import COLOURS, draw, seen, validated

# A machine with one core is told that it has one.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_left_out_and_recorded_once(source: TrainingSource, images: Path, workers: int) -> None:
    whole = list(open_training(replace(source, batch_size=7)).train(0))
    (images / "dog" / "3.png").write_text("no image")
    opened = open_training(replace(source, batch_size=7, max_bad_images=1, workers=workers))
    for _ in range(2):
        rest = list(opened.train(0))
        assert sorted(len(labels) for _, labels in rest) == [6, 7, 7]
    # Nothing takes its place, and no other image is any different.
    assert set(seen(rest)) < set(seen(whole))
    assert [line.split(": ")[0] for line in opened.bad] == ["dog/3.png"]
    record = opened.record()
    assert (record["bad_images"], record["bad_images_total"]) == (opened.bad, 1)
    opened.close()


def test_an_unreadable_image_too_many_is_an_error(source: TrainingSource, images: Path) -> None:
    (images / "dog" / "3.png").write_text("no image")
    with pytest.raises(InputRejectedError, match=r"dog/3\.png: an image cannot be read: .*--max-bad-images"):
        list(open_training(replace(source, batch_size=7)).train(0))
    (images / "dog" / "notes.txt").write_text("no image")
    with pytest.raises(InputRejectedError, match=r"notes\.txt"):
        open_training(source)
    with pytest.raises(InputRejectedError, match="2 files are no readable images, this one the last"):
        list(open_training(replace(source, batch_size=7, max_bad_images=1)).train(0))
    assert len(list(open_training(replace(source, batch_size=7, max_bad_images=2)).train(0))) == 3


def test_images_of_one_name_in_two_folders_are_two(source: TrainingSource, images: Path, tmp_path: Path) -> None:
    draw(tmp_path / "val" / "ant" / "1.png", COLOURS["ant"])
    (tmp_path / "val" / "ant" / "0.png").write_text("no image")
    (images / "ant" / "0.png").write_text("no image")
    opened = open_training(replace(source, val=str(tmp_path / "val"), batch_size=7, max_bad_images=2))
    assert (len(list(opened.train(0))), len(validated(opened))) == (3, 1)
    assert len(opened.bad) == 2


def test_a_batch_that_loses_all_but_one_image_is_refused(source: TrainingSource, images: Path) -> None:
    for path in sorted(images.rglob("*.png"))[:20]:
        path.write_text("no image")
    with pytest.raises(InputRejectedError, match=r"too few images are left of a batch: [01]: "):
        list(open_training(replace(source, max_bad_images=20)).train(0))


def test_images_of_different_sizes_are_refused_where_the_stored_size_counts(
    source: TrainingSource, images: Path
) -> None:
    draw(images / "ant" / "0.png", (0, 0, 0), side=6)
    for workers in (0, 1):
        stored = replace(source, preprocessing=Preprocessing((3, None, None)), batch_size=21, workers=workers)
        with pytest.raises(InputRejectedError, match=r"of different sizes.*6 x 6 px.*--img-size"):
            list(open_training(stored).train(0))
