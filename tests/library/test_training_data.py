"""Folders of images -> batches to train on: what is seen when, whoever asks and however often."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bnretrofit.decoding import decode
from bnretrofit.errors import UsageError
from bnretrofit.training_data import TrainingSet, TrainingSource, open_training, samples
from tests.library.class_folders import same, seen

# A machine with one core is told that it has one.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


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
    with pytest.raises(UsageError, match="a batch of 1 image cannot be trained on: there are 21 images for 16 batches"):
        open_training(replace(source, batch_size=2)).train(0, ranks=16)
    single = open_training(replace(source, batch_size=1, min_batch=1))
    assert len(list(single.train(0))) == 21


@pytest.mark.parametrize(("choice", "value"), [("batch_size", 0), ("workers", -1), ("aug", "heavy")])
def test_a_choice_out_of_range_is_refused(source: TrainingSource, choice: str, value: Any) -> None:
    with pytest.raises(UsageError, match=re.escape(str(value))):
        open_training(replace(source, **{choice: value}))
