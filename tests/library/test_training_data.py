"""Folders of images -> batches to train on: what is seen when, whoever asks and however often."""

import multiprocessing
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bnretrofit.decoding import decode
from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training_data import LabelledBatch, TrainingSet, TrainingSource, open_training, samples
from bnretrofit.training_data.passes import CountedPass

# A machine with one core is told that it has one.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

SMALL = Preprocessing((3, 8, 8))
COLOURS = {"ant": (200, 30, 0), "dog": (0, 200, 30), "fox": (30, 0, 200)}


def draw(path: Path, colour: tuple[int, int, int], number: int = 0, side: int = 8) -> Path:
    """An image of one colour, with as many of its pixels white as its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (side, side), colour)
    for place in range(number):
        image.putpixel((place % side, place // side), (255, 255, 255))
    image.save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three classes of 8, 7 and 6 images, no two alike."""
    for count, (name, colour) in zip((8, 7, 6), COLOURS.items(), strict=True):
        for number in range(count):
            draw(tmp_path / "images" / name / f"{number}.png", colour, number)
    return tmp_path / "images"


@pytest.fixture
def source(images: Path) -> TrainingSource:
    return TrainingSource(str(images), SMALL, batch_size=4, seed=3)


def same(a: list[LabelledBatch], b: list[LabelledBatch]) -> bool:
    """Whether they are the same batches, bit for bit."""
    return len(a) == len(b) and all(
        torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True)
    )


def seen(batches: list[LabelledBatch]) -> list[bytes]:
    """Each image with its label, sorted."""
    return sorted(
        image.numpy().tobytes() + bytes([int(label)]) for batch in batches for image, label in zip(*batch, strict=True)
    )


def validated(opened: TrainingSet, rank: int = 0, ranks: int = 1) -> list[LabelledBatch]:
    batches = opened.validation(rank, ranks)
    assert batches is not None
    return list(batches)


def disturb(number: int) -> None:
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - what timm draws from
    torch.manual_seed(number)


def states() -> tuple[Any, ...]:
    numpys: Any = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numpys[1].tolist(), numpys[2], torch.get_rng_state().tolist()


def test_batches_are_float32_with_labels_in_the_order_of_class_names(source: TrainingSource) -> None:
    opened = open_training(replace(source, aug="none"))
    assert (opened.classes, opened.train_size, opened.val_size) == (("ant", "dog", "fox"), 21, 0)
    assert opened.validation() is None
    found = list(opened.train(0))
    assert len(found) == opened.batches_per_epoch() == 5
    for batch, labels in found:
        assert (batch.shape, batch.dtype, labels.dtype) == ((4, 3, 8, 8), torch.float32, torch.int64)
        # The last pixel is of the class's colour: its strongest channel is the class.
        assert batch[:, :, -1, -1].argmax(1).tolist() == labels.tolist()


def test_an_epoch_has_every_image_once_but_for_an_incomplete_batch(source: TrainingSource) -> None:
    plain = open_training(replace(source, aug="none", batch_size=7))
    epoch = list(plain.train(0))
    assert [len(labels) for _, labels in epoch] == [7, 7, 7]
    assert len(set(seen(epoch))) == 21
    assert [len(labels) for _, labels in open_training(replace(source, batch_size=10)).train(0)] == [10, 10]


@pytest.mark.parametrize("aug", ["light", "timm"])
def test_batches_are_the_same_whatever_workers_and_generators(source: TrainingSource, aug: str) -> None:
    epochs = []
    for workers in (0, 1, 2):
        disturb(workers)
        opened = open_training(replace(source, aug=aug, workers=workers))
        # The second epoch comes from the same processes as the first.
        epochs.append([list(opened.train(epoch)) for epoch in (0, 1)])
        opened.close()
    for others in epochs[1:]:
        assert all(same(a, b) for a, b in zip(epochs[0], others, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_generators_are_left_as_they_were(source: TrainingSource, workers: int) -> None:
    opened = open_training(replace(source, aug="timm", workers=workers, val_split=0.2))
    before = states()
    assert len(list(opened.train(0))) == 4
    assert len(validated(opened)) > 0
    assert len(list(opened.calibration_batches(5))) == 2
    assert states() == before
    opened.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_begun_in_its_midst(source: TrainingSource, workers: int) -> None:
    whole = list(open_training(source).train(2))
    begun = open_training(replace(source, workers=workers))
    assert same(list(begun.train(2, start=3)), whole[3:])
    assert list(begun.train(2, start=5)) == []
    assert not same(whole[:2], whole[3:])


def test_what_comes_before_the_beginning_is_not_decoded(
    source: TrainingSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []

    def noted(path: Path, mode: str) -> Image.Image:
        decoded.append(path)
        return decode(path, mode)

    monkeypatch.setattr(samples, "decode", noted)
    opened = open_training(source)
    counts = []
    for start in (0, 3):
        list(opened.train(0, start=start))
        counts.append(len(decoded))
    assert counts == [20, 28]


@pytest.mark.parametrize(("epoch", "seed"), [(0, 4), (1, 3)])
def test_another_seed_or_epoch_is_another_order_and_augmentation(source: TrainingSource, epoch: int, seed: int) -> None:
    def labels(opened: TrainingSet, epoch: int) -> list[int]:
        return torch.cat([label for _, label in opened.train(epoch)]).tolist()

    plain, other = (open_training(replace(source, aug="none", seed=number)) for number in (3, seed))
    assert labels(plain, 0) == labels(plain, 0)
    assert labels(plain, 0) != labels(other, epoch)
    whole = replace(source, batch_size=7)
    augmented = seen(list(open_training(whole).train(0)))
    assert augmented == seen(list(open_training(whole).train(0)))
    assert augmented != seen(list(open_training(replace(whole, seed=seed)).train(epoch)))


def test_two_processes_see_what_one_sees_that_accumulates(source: TrainingSource) -> None:
    opened = open_training(source)
    one = list(opened.train(1, accumulate=2))
    two = [list(opened.train(1, rank=rank, ranks=2)) for rank in (0, 1)]
    assert opened.batches_per_epoch(ranks=2) == opened.batches_per_epoch(accumulate=2) == 2
    assert same(one, [batch for pair in zip(*two, strict=True) for batch in pair])
    assert same(one[2:], list(opened.train(1, start=1, accumulate=2)))
    assert same(two[1][1:], list(opened.train(1, start=1, rank=1, ranks=2)))
    both = [list(opened.train(1, rank=rank, ranks=2, accumulate=2)) for rank in (0, 1)]
    assert same([batch for pair in zip(*both, strict=True) for batch in pair], list(opened.train(1, accumulate=4)))


def test_a_set_smaller_than_a_batch_is_one_smaller_batch(source: TrainingSource) -> None:
    opened = open_training(replace(source, batch_size=30))
    assert [len(labels) for _, labels in opened.train(0)] == [21]
    assert opened.batches_per_epoch() == opened.batches_per_epoch(ranks=4) == 1
    sizes = [[len(labels) for _, labels in opened.train(0, rank=rank, ranks=4)] for rank in range(4)]
    assert sizes == [[6], [5], [5], [5]]


def test_a_batch_of_one_image_is_refused(source: TrainingSource) -> None:
    with pytest.raises(UsageError, match=r"a batch of 1 image cannot be trained on: .*--batch-size"):
        open_training(replace(source, batch_size=1)).train(0)
    with pytest.raises(UsageError, match="a batch of 1 image cannot be trained on: 21 images for 16 batches"):
        open_training(replace(source, batch_size=2)).train(0, ranks=16)
    single = open_training(replace(source, batch_size=1, min_batch=1))
    assert len(list(single.train(0))) == 21


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


def workers_of(act: Callable[[], Any]) -> set[multiprocessing.process.BaseProcess]:
    before = set(multiprocessing.active_children())
    act()
    return set(multiprocessing.active_children()) - before


def test_workers_end_with_an_iterator_that_is_given_up(source: TrainingSource) -> None:
    opened = open_training(replace(source, workers=1))
    begun: list[Iterator[LabelledBatch]] = []

    def begin() -> None:
        begun.append(opened.train(0))
        next(begun[0])

    (worker,) = workers_of(begin)
    begun.pop().close()  # type: ignore[attr-defined]
    assert not worker.is_alive()
    # It can be begun again, and a pass to its end leaves its worker for the next until it is let go.
    (worker,) = workers_of(lambda: list(opened.train(0)))
    assert workers_of(lambda: list(opened.train(1))) == set()
    assert worker.is_alive()
    opened.close()
    assert not worker.is_alive()


def test_a_relabelled_set_has_the_same_workers_and_bad_images(source: TrainingSource, images: Path) -> None:
    (images / "dog" / "3.png").write_text("no image")
    opened = open_training(replace(source, workers=1, batch_size=7, max_bad_images=1))
    other = opened.relabelled([5, 6, 7])
    (worker,) = workers_of(lambda: list(other.train(0)))
    assert len(opened.bad) == 1
    opened.close()
    assert not worker.is_alive()


def test_two_passes_at_a_time_do_not_disturb_each_other(source: TrainingSource) -> None:
    opened = open_training(replace(source, workers=1))
    pairs = list(zip(opened.train(0), opened.train(1), strict=True))
    for epoch in (0, 1):
        assert same([pair[epoch] for pair in pairs], list(open_training(source).train(epoch)))
    opened.close()


@pytest.mark.parametrize(("choice", "value"), [("batch_size", 0), ("workers", -1), ("aug", "heavy")])
def test_a_choice_out_of_range_is_refused(source: TrainingSource, choice: str, value: Any) -> None:
    with pytest.raises(UsageError, match=re.escape(str(value))):
        open_training(replace(source, **{choice: value}))
