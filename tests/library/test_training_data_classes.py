"""Which images are trained on and which validate, and what their classes are."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.training_data import TrainingSet, TrainingSource, open_training
from bnretrofit.training_data.passes import CountedPass
from tests.library.class_folders import COLOURS, SMALL, draw, same, seen, validated

# A machine with one core is told that it has one.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def test_validation_is_all_images_in_order_without_augmentation(source: TrainingSource, images: Path) -> None:
    opened = open_training(replace(source, val=str(images), aug="light"))
    validation = opened.validation()
    assert isinstance(validation, CountedPass)
    found = list(validation)
    assert same(list(validation), found)
    assert len(found) == len(validation) == 6
    assert torch.cat([labels for _, labels in found]).tolist() == [0] * 8 + [1] * 7 + [2] * 6
    plain = open_training(replace(source, aug="none", batch_size=7))
    assert seen(found) == seen(list(plain.train(0)))
    shards = [validated(opened, rank, 4) for rank in range(4)]
    assert seen([batch for shard in shards for batch in shard]) == seen(found)
    assert [len(shard) for shard in shards] == [2, 2, 1, 1]


def test_a_class_folder_without_images_is_named_where_it_is_trained_on(source: TrainingSource, images: Path) -> None:
    for name in ("bee", "cat"):
        (images / name / "deeper").mkdir(parents=True)
    (images / ".hidden").mkdir()
    (images / "cat" / "notes.txt").write_text("none")
    with pytest.raises(InputRejectedError, match=r"2 of 5 class folders hold no image: bee, cat\. Put their images"):
        open_training(replace(source, max_bad_images=1))


def test_a_class_may_have_no_images_to_validate_with(source: TrainingSource, images: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    (some / "ant").mkdir(parents=True)
    shutil.copytree(images / "dog", some / "dog")
    opened = open_training(replace(source, val=str(some)))
    assert {int(label) for _, labels in validated(opened) for label in labels} == {1}


def test_calibration_draws_images_of_training_without_augmentation(source: TrainingSource) -> None:
    def drawn(opened: TrainingSet, limit: int | None) -> list[bytes]:
        return [image.numpy().tobytes() for batch in opened.calibration_batches(limit) for image in batch]

    opened = open_training(replace(source, val_split=0.3))
    trained = drawn(opened, None)
    assert len(trained) == opened.train_size
    sample = opened.calibration_batches(6)
    assert [len(batch) for batch in sample] == [len(batch) for batch in sample] == [4, 2]
    assert set(drawn(opened, 6)) < set(trained)
    assert drawn(opened, 6) == drawn(open_training(replace(source, val_split=0.3)), 6)
    assert not {image.numpy().tobytes() for batch, _ in validated(opened) for image in batch} & set(trained)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
def test_a_split_is_disjoint_stratified_and_that_of_its_seed(source: TrainingSource, share: float) -> None:
    def parts(seed: int) -> tuple[list[bytes], list[bytes], Tensor]:
        opened = open_training(replace(source, aug="none", val_split=share, seed=seed, batch_size=1, min_batch=1))
        train, val = list(opened.train(0)), validated(opened)
        return seen(train), seen(val), torch.cat([label for _, label in val])

    train, val, labels = parts(3)
    assert len({*train, *val}) == len(train) + len(val) == 21
    expected = {0.01: [1, 1, 1], 0.3: [2, 2, 2], 0.99: [7, 6, 5]}[share]
    assert labels.bincount().tolist() == expected
    assert parts(3)[:2] == (train, val)
    assert len({tuple(parts(seed)[1]) for seed in range(5)}) > 1


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_a_share_out_of_range_is_refused(source: TrainingSource, share: float) -> None:
    with pytest.raises(UsageError, match="must be above 0 and below 1"):
        open_training(replace(source, val_split=share))


def test_a_share_beside_something_to_validate_with_is_refused(source: TrainingSource, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="val and val_split exclude each other"):
        open_training(replace(source, val=source.root, val_split=0.3))
    shutil.copytree(source.root, tmp_path / "set" / "train")
    shutil.copytree(source.root, tmp_path / "set" / "valid")
    splits = replace(source, root=str(tmp_path / "set"))
    with pytest.raises(UsageError, match="it has a folder to validate with, 'valid'"):
        open_training(replace(splits, val_split=0.3))
    assert open_training(splits).record()
    # Whoever writes them with a capital means the same.
    (tmp_path / "set" / "train").rename(tmp_path / "set" / "Train")
    assert list(open_training(splits).classes) == list(open_training(source).classes)
    # Folders that differ in capitals alone are classes, whatever they are called.
    shutil.copytree(source.root, tmp_path / "set" / "train")
    assert {"train", "Train"} < set(open_training(splits).classes)


def test_a_class_of_one_image_cannot_be_split(source: TrainingSource, images: Path) -> None:
    draw(images / "elk" / "0.png", (1, 2, 3))
    with pytest.raises(UsageError, match="a class of one image cannot be split"):
        open_training(replace(source, val_split=0.5))


def test_the_splits_of_a_data_set_are_told_from_classes(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        for name in ("ant", "dog"):
            for number in (0, 1):
                draw(tmp_path / split / name / f"{number}.png", COLOURS[name], number)
    draw(tmp_path / "validation" / "dog" / "2.png", COLOURS["dog"])
    opened = open_training(TrainingSource(str(tmp_path), SMALL))
    assert (opened.classes, opened.train_size, opened.val_size) == (("ant", "dog"), 4, 5)
    # CIFAR-100 has a class of that name, among others.
    draw(tmp_path / "castle" / "0.png", (1, 2, 3))
    assert open_training(TrainingSource(str(tmp_path), SMALL)).classes == ("castle", "test", "train", "validation")


def test_classes_to_validate_with_are_mapped_by_name(source: TrainingSource, tmp_path: Path) -> None:
    for name in ("dog", "fox"):
        draw(tmp_path / "val" / name / "0.png", COLOURS[name])
    ((_, labels),) = validated(open_training(replace(source, val=str(tmp_path / "val"))))
    assert labels.tolist() == [1, 2]


def test_a_class_that_training_has_not_is_refused(source: TrainingSource, tmp_path: Path) -> None:
    for name in ("dog", "Fox"):
        draw(tmp_path / "val" / name / "0.png", (0, 0, 0))
    with pytest.raises(InputRejectedError, match=r"1 of 2 classes .*only here: Fox; only in training: ant, fox"):
        open_training(replace(source, val=str(tmp_path / "val")))


def test_images_without_class_folders_are_refused(source: TrainingSource, images: Path) -> None:
    with pytest.raises(InputRejectedError, match="the images have no labels"):
        open_training(replace(source, root=str(images / "ant")))


def test_classes_become_the_outputs_that_the_caller_names(source: TrainingSource, images: Path) -> None:
    opened = open_training(replace(source, val=str(images))).relabelled([7, 500, 9])
    expected = [7] * 8 + [500] * 7 + [9] * 6
    assert torch.cat([labels for _, labels in validated(opened)]).tolist() == expected
    assert {int(label) for _, labels in opened.train(0) for label in labels} == {7, 500, 9}
    with pytest.raises(UsageError, match="2 for 3 classes"):
        opened.relabelled([0, 1])


def test_the_record_holds_counts_and_digests_and_no_folder(source: TrainingSource, images: Path) -> None:
    opened = open_training(replace(source, val_split=0.3))
    record = opened.record()
    assert (record["images"], record["val_images"], record["seed"], record["aug"]) == (15, 6, 3, "light")
    assert str(images) not in repr(record)
    assert open_training(replace(source, val_split=0.3)).record() == record
    other = open_training(replace(source, val_split=0.3, seed=4)).record()
    assert other["names_sha256"] != record["names_sha256"]
    assert "val_names_sha256" not in open_training(source).record()
    moved = images.rename(images.with_name("moved"))
    assert open_training(replace(source, root=str(moved), val_split=0.3)).record() == record
