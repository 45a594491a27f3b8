"""Folders of images -> batches: which files, which labels, which tensors."""

import hashlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from bnretrofit.data import ImageBatches, find_images
from bnretrofit.errors import InputRejectedError
from bnretrofit.preprocessing import Preprocessing

RGB, GREY = Preprocessing((3, None, None)), Preprocessing((1, None, None))


def draw(path: Path, colour: tuple[int, int, int] = (0, 0, 0), size: tuple[int, int] = (4, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two images of each of three classes, written in no order."""
    for index, name in enumerate(("fox", "ant", "dog")):
        for image in (1, 0):
            draw(tmp_path / "images" / name / f"{image}.png", (index, image, 0))
    return tmp_path / "images"


def test_a_folder_per_class_gives_labels_in_the_order_of_names(classes: Path) -> None:
    found = find_images(classes)
    assert found.classes == ("ant", "dog", "fox")
    assert found.labels == (0, 0, 1, 1, 2, 2)
    assert [str(path.relative_to(classes)) for path in found.paths] == [
        "ant/0.png", "ant/1.png", "dog/0.png", "dog/1.png", "fox/0.png", "fox/1.png",
    ]  # fmt: skip


def test_folders_inside_a_class_belong_to_it(classes: Path) -> None:
    draw(classes / "dog" / "more" / "9.png")
    assert find_images(classes).labels == (0, 0, 1, 1, 1, 2, 2)


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    paths = [draw(tmp_path / name) for name in ("b.png", "a.JPG", "c.webp")]
    found = find_images(tmp_path)
    assert (found.labels, found.classes) == ((), ())
    assert sorted(found.paths) == sorted(paths)


def test_an_image_beside_class_folders_makes_the_folder_flat(classes: Path) -> None:
    draw(classes / "stray.png")
    assert find_images(classes).labels == ()


def test_hidden_files_and_those_of_desktops_are_passed_over(classes: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", ".cache/0.png", "desktop.ini"):
        (classes / name).parent.mkdir(exist_ok=True)
        (classes / name).write_text("not an image")
    found = find_images(classes)
    assert (len(found.paths), found.others) == (6, ())


def test_links_to_class_folders_are_followed(classes: Path, tmp_path: Path) -> None:
    # As torchvision's ImageFolder does: a subset of ImageNet is often a folder of links.
    (tmp_path / "subset").mkdir()
    (tmp_path / "subset" / "dog").symlink_to(classes / "dog")
    assert len(find_images(tmp_path / "subset").paths) == 2


def test_other_files_are_counted_against_what_is_allowed(classes: Path) -> None:
    (classes / "ant" / "labels.txt").write_text("ant")
    with pytest.raises(InputRejectedError, match=r"labels\.txt"):
        find_images(classes)
    assert [path.name for path in find_images(classes, max_bad_images=1).others] == ["labels.txt"]


def test_a_sample_is_drawn_with_its_seed_and_keeps_order(classes: Path) -> None:
    found = find_images(classes)
    sample = found.sampled(3, seed=1)
    assert sample == found.sampled(3, seed=1)
    assert list(sample.paths) == sorted(sample.paths)
    assert [found.classes[label] for label in sample.labels] == [path.parent.name for path in sample.paths]
    assert len({found.sampled(3, seed=seed).paths for seed in range(20)}) > 5
    assert found.sampled(None, 0) is found
    assert found.sampled(99, 0) is found


def test_the_rest_is_what_a_sample_left(classes: Path) -> None:
    found = find_images(classes)
    sample = found.sampled(4, seed=3)
    rest = found.without(sample)
    assert sorted((*sample.paths, *rest.paths)) == list(found.paths)
    assert [found.classes[label] for label in rest.labels] == [path.parent.name for path in rest.paths]


def test_the_digest_is_that_of_names_and_contents_alone(classes: Path) -> None:
    digest = find_images(classes).digest()
    names = [f"{folder}/{image}.png" for folder in ("ant", "dog", "fox") for image in (0, 1)]
    lines = [f"{hashlib.sha256((classes / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    assert digest == hashlib.sha256("".join(lines).encode()).hexdigest()
    moved = classes.rename(classes.with_name("moved"))
    assert find_images(moved).digest() == digest
    draw(moved / "dog" / "0.png", (9, 9, 9))
    changed = find_images(moved).digest()
    (moved / "dog" / "0.png").rename(moved / "dog" / "2.png")
    assert len({digest, changed, find_images(moved).digest(), find_images(moved).taken([0]).digest()}) == 4


def test_the_digest_knows_names_that_are_no_text(tmp_path: Path) -> None:
    # Linux lets a file be named by any bytes.
    try:
        draw(tmp_path / "plain.png").rename(tmp_path / "\udcff.png")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes names of text only")
    assert len(find_images(tmp_path).digest()) == 64


def test_batches_are_float32_in_the_order_of_the_files(classes: Path) -> None:
    batches = ImageBatches(find_images(classes), RGB, batch_size=4)
    found = list(batches)
    assert [tuple(batch.shape) for batch in found] == [(4, 3, 4, 4), (2, 3, 4, 4)]
    assert len(batches) == 2
    images = torch.cat(found)
    assert images.dtype is torch.float32
    assert (images[:, :2, 0, 0] * 255).round().tolist() == [[1, 0], [1, 1], [2, 0], [2, 1], [0, 0], [0, 1]]


def test_workers_decode_the_same_batches(classes: Path) -> None:
    files = find_images(classes)
    here, there = (list(ImageBatches(files, RGB, batch_size=4, workers=workers)) for workers in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_a_new_batch_begins_where_sizes_change(tmp_path: Path) -> None:
    for index, side in enumerate((4, 4, 6, 6, 6, 4)):
        draw(tmp_path / f"{index}.png", size=(side, 4))
    found = [tuple(batch.shape) for batch in ImageBatches(find_images(tmp_path), RGB, batch_size=32)]
    assert found == [(2, 3, 4, 4), (3, 3, 4, 6), (1, 3, 4, 4)]


def test_a_model_of_one_channel_gets_grey_images(tmp_path: Path) -> None:
    draw(tmp_path / "red.png", (255, 0, 0))
    (batch,) = ImageBatches(find_images(tmp_path), GREY, batch_size=1)
    assert batch.shape == (1, 1, 4, 4)
    assert batch.unique().item() == pytest.approx(76 / 255)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_images_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(tmp_path / "white.tif")
    (batch,) = ImageBatches(find_images(tmp_path), RGB, batch_size=1)
    assert batch.shape == (1, 3, 4, 4)
    assert batch.min() > 0.99


def test_mean_and_std_are_applied_per_channel(tmp_path: Path) -> None:
    draw(tmp_path / "grey.png", (51, 102, 204))
    sized = Preprocessing((3, 4, 4), (0.1, 0.2, 0.3), (0.5, 0.5, 0.25))
    for preprocessing in (sized, Preprocessing((3, None, None), sized.mean, sized.std)):
        (batch,) = ImageBatches(find_images(tmp_path), preprocessing, batch_size=1)
        assert batch[0, :, 0, 0].tolist() == pytest.approx([0.2, 0.4, 2.0], abs=1e-5)


def test_images_are_resized_and_cropped_to_the_input(tmp_path: Path) -> None:
    draw(tmp_path / "wide.png", size=(40, 20))
    (batch,) = ImageBatches(find_images(tmp_path), Preprocessing((3, 8, 8), crop_pct=0.8), batch_size=1)
    assert batch.shape == (1, 3, 8, 8)


def test_unreadable_images_are_listed_and_their_labels_left_out(classes: Path) -> None:
    (classes / "dog" / "0.png").write_text("no image")
    (classes / "dog" / "a:b.png").write_text("no image")
    batches = ImageBatches(find_images(classes), RGB, batch_size=4, max_bad_images=2)
    for _ in range(2):
        assert sum(len(batch) for batch in batches) == 5
        assert [line.split(": Un")[0] for line in batches.bad] == ["dog/0.png", "dog/a:b.png"]
    assert batches.labels == [0, 0, 1, 2, 2]
    assert [path.name for path in batches.readable.paths] == ["0.png", "1.png", "1.png", "0.png", "1.png"]


def test_one_unreadable_image_too_many_is_an_error(classes: Path) -> None:
    (classes / "dog" / "0.png").write_text("no image")
    with pytest.raises(InputRejectedError, match=r"dog/0\.png: an image cannot be read: .*--max-bad-images"):
        list(ImageBatches(find_images(classes), RGB, batch_size=4))
    (classes / "fox" / "0.png").write_text("no image")
    with pytest.raises(InputRejectedError, match=r"fox/0\.png: 2 files are no readable images, this one the last: "):
        list(ImageBatches(find_images(classes), RGB, batch_size=4, max_bad_images=1))


def test_a_transform_that_fails_is_no_fault_of_the_image(classes: Path) -> None:
    batches = ImageBatches(find_images(classes), Preprocessing((3, None, None), std=(1.0, 1.0)), 4, max_bad_images=6)
    with pytest.raises(RuntimeError):
        list(batches)
