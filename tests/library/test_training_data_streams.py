"""Streams of images -> batches to train on; a reader of the same interface as timm's stands for them."""

import gc
import io
import itertools
import json
import random
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.dataset import IterableImageDataset
from torch.utils.data import get_worker_info

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training_data import LabelledBatch, TrainingSet, TrainingSource, open_training, timm_datasets

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

GREY = Preprocessing((1, 8, 8))


class Reader:
    """As timm's readers: an epoch's order is shared out among processes and their workers, full batches to each."""

    def __init__(self, split: str, count: int, *, is_training: bool, batch_size: int, seed: int, breaks: bool) -> None:
        self.first, self.num_samples = (0, count) if split == "train" else (100, count // 2)
        self.is_training, self.batch_size, self.seed, self.breaks = is_training, batch_size, seed, breaks
        self.class_to_idx = {"even": 0, "odd": 1}
        self.dist_rank, self.dist_num_replicas, self.num_workers, self.epoch = 0, 1, 1, 0

    def set_epoch(self, count: int) -> None:
        self.epoch = count

    def set_loader_cfg(self, num_workers: int) -> None:
        self.num_workers = num_workers

    def __len__(self) -> int:
        share = -(-self.num_samples // (self.dist_num_replicas * self.num_workers))
        return -(-share // self.batch_size) * self.batch_size * self.num_workers

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        order = list(range(self.first, self.first + self.num_samples))
        if self.is_training:
            random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        mine = order[self.dist_rank * workers + worker :: self.dist_num_replicas * workers]
        if self.is_training:
            mine = (mine * 4)[: len(self) // self.num_workers]
        for place, level in enumerate(mine):
            if self.breaks and place == 5:
                raise OSError("the line went dead")
            yield Image.new("L", (8, 8), level), level % 2


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> TrainingSource:
    """A stream of 40 images, of level and number 0 … 39, and of 20 from 100 on to validate with."""
    streamed(monkeypatch, 40)
    return TrainingSource("wds/shards", GREY, val="val", batch_size=4, seed=3, aug="none")


def streamed(monkeypatch: pytest.MonkeyPatch, count: int, *, breaks: bool = False) -> None:
    def create_dataset(name: str, root: str, split: str, *, input_img_mode: str, **options: Any) -> Any:
        assert (name, root, input_img_mode) == ("wds/shards", "shards", "L")
        return IterableImageDataset(root, reader=Reader(split, count, breaks=breaks, **options))

    monkeypatch.setitem(timm_datasets.PACKAGES, "wds", "torch")
    monkeypatch.setattr("timm.data.dataset_factory.create_dataset", create_dataset)


def levels(batches: list[LabelledBatch]) -> list[list[int]]:
    return [(images[:, 0, 0, 0] * 255).round().int().tolist() for images, _ in batches]


def flat(batches: list[LabelledBatch]) -> list[int]:
    return [level for batch in levels(batches) for level in batch]


def same(a: list[LabelledBatch], b: list[LabelledBatch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True)
    )


def validated(opened: TrainingSet, rank: int = 0, ranks: int = 1) -> list[LabelledBatch]:
    batches = opened.validation(rank, ranks)
    assert batches is not None
    return list(batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_of_a_stream_is_a_function_of_seed_and_epoch(source: TrainingSource, workers: int) -> None:
    opened = open_training(replace(source, workers=workers, aug="light"))
    assert (opened.classes, opened.train_size, opened.val_size) == (("even", "odd"), 40, 20)
    assert opened.batches_per_epoch() == {0: 10, 2: 10}[workers]
    epochs = []
    for state in (0, 1):
        random.seed(state)
        np.random.seed(state)  # noqa: NPY002 - what timm draws from
        torch.manual_seed(state)
        epochs.append(list(opened.train(1)))
    assert same(*epochs)
    assert len(epochs[0]) == 10
    assert not same(epochs[0], list(opened.train(0)))
    assert not same(epochs[0], list(open_training(replace(source, workers=workers, aug="light", seed=4)).train(1)))
    plain = list(open_training(replace(source, workers=workers)).train(1))
    assert sorted(flat(plain)) == list(range(40))
    assert all([level % 2 for level in found] == y.tolist() for found, (_, y) in zip(levels(plain), plain, strict=True))


@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), (0, 3), (2, 1), (2, 3)])
def test_an_epoch_of_a_stream_can_be_begun_in_its_midst(source: TrainingSource, workers: int, accumulate: int) -> None:
    opened = open_training(replace(source, workers=workers, aug="light"))
    whole = list(opened.train(0, accumulate=accumulate))
    steps = opened.batches_per_epoch(accumulate=accumulate)
    assert steps is not None
    assert len(whole) == steps * accumulate
    for start in (1, 2, steps):
        rest = list(opened.train(0, start=start, accumulate=accumulate))
        assert same(rest, whole[start * accumulate :])


def test_generators_are_left_as_they_were(source: TrainingSource) -> None:
    opened = open_training(replace(source, aug="light"))
    before = random.getstate(), torch.get_rng_state().tolist()
    assert len(list(opened.train(0))) == 10
    assert (random.getstate(), torch.get_rng_state().tolist()) == before


def test_processes_share_a_stream(source: TrainingSource) -> None:
    opened = open_training(source)
    shares = [list(opened.train(0, rank=rank, ranks=2)) for rank in (0, 1)]
    assert [len(share) for share in shares] == [opened.batches_per_epoch(ranks=2)] * 2 == [5, 5]
    assert sorted(flat(shares[0]) + flat(shares[1])) == list(range(40))


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_has_every_image_once(source: TrainingSource, workers: int) -> None:
    opened = open_training(replace(source, workers=workers, batch_size=3, aug="light"))
    whole = opened.validation()
    assert whole is not None
    assert same(list(whole), list(whole))
    assert sorted(flat(list(whole))) == list(range(100, 120))
    shares = [flat(validated(opened, rank, 3)) for rank in range(3)]
    assert sorted(itertools.chain(*shares)) == list(range(100, 120))
    assert all(6 <= len(share) <= 8 for share in shares)
    unvalidated = open_training(replace(source, val=None))
    assert (unvalidated.validation(), unvalidated.val_size) == (None, 0)


def test_calibration_takes_so_many_of_a_stream(source: TrainingSource) -> None:
    def drawn(opened: TrainingSet, limit: int | None) -> list[int]:
        return [round(float(image[0, 0, 0]) * 255) for batch in opened.calibration_batches(limit) for image in batch]

    opened = open_training(replace(source, aug="light"))
    assert drawn(opened, 10) == drawn(opened, 10)
    assert len(set(drawn(opened, 10))) == 10
    assert len(drawn(opened, 8)) == 8
    for limit, count in ((None, 10), (8, 2), (10, 3), (99, 10)):
        batches = opened.calibration_batches(limit)
        assert len(batches) == len(list(batches)) == count
    assert sorted(drawn(opened, None)) == list(range(40))


def test_outputs_are_those_that_the_caller_names(source: TrainingSource) -> None:
    opened = open_training(source).relabelled([70, 80])
    assert {int(label) for _, labels in opened.train(0) for label in labels} == {70, 80}


def test_a_stream_that_breaks_off_is_an_error(source: TrainingSource, monkeypatch: pytest.MonkeyPatch) -> None:
    streamed(monkeypatch, 40, breaks=True)
    for workers in (0, 1):
        opened = open_training(replace(source, workers=workers))
        with pytest.raises(InputRejectedError, match="wds train: the stream of images broke off: OSError: the line"):
            list(opened.train(0))


def test_a_stream_that_ends_early_is_an_error(source: TrainingSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "__len__", lambda self: 44)
    monkeypatch.setattr(Reader, "__iter__", lambda self: iter([(Image.new("L", (8, 8)), 0)] * 42))
    opened = open_training(source)
    found: list[LabelledBatch] = []
    with pytest.raises(InputRejectedError, match="ended before the epoch did: 11 batches were expected"):
        found.extend(opened.train(0))


def test_a_batch_of_one_image_is_refused(source: TrainingSource) -> None:
    with pytest.raises(UsageError, match="a batch of 1 image cannot be trained on"):
        open_training(replace(source, batch_size=1)).train(0)


def test_a_stream_that_is_too_short_for_a_step_is_told_from_one_of_unknown_length(source: TrainingSource) -> None:
    opened = open_training(source)
    # Ten batches of four.
    assert [opened.batches_per_epoch(1, accumulate) for accumulate in (3, 10, 11)] == [3, 1, 0]


def test_a_stream_has_no_share_to_set_aside(source: TrainingSource) -> None:
    with pytest.raises(UsageError, match="no share of a stream can be set aside"):
        open_training(replace(source, val=None, val_split=0.1))


def test_the_promise_of_a_stream_is_weaker(source: TrainingSource, tmp_path: Path) -> None:
    path = tmp_path / "ant" / "0.png"
    path.parent.mkdir()
    Image.new("L", (8, 8)).save(path)
    assert "only with as many processes and workers" in open_training(source).promise
    assert "whatever the number of workers" in open_training(TrainingSource(str(tmp_path), GREY)).promise


# webdataset leaves it to the garbage collector to close its files.
unclosed = pytest.mark.filterwarnings("ignore:unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Path]:
    """A webdataset of four shards of ten images; the first image of the second one cannot be read."""
    pytest.importorskip("webdataset")
    for shard in range(4):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
            for place in range(10):
                level = shard * 10 + place
                file = io.BytesIO()
                Image.new("L", (8, 8), level).save(file, "png")
                content = b"no image" if level == 10 else file.getvalue()
                for suffix, stored in (("png", content), ("cls", str(level % 2).encode())):
                    member = tarfile.TarInfo(f"{level:04d}.{suffix}")
                    member.size = len(stored)
                    tar.addfile(member, io.BytesIO(stored))
    names = [f"train-{shard}.tar" for shard in range(4)]
    split = {"name": "train", "filenames": names, "shard_lengths": [10] * 4, "num_samples": 40}
    (tmp_path / "info.json").write_text(json.dumps({"splits": {"train": split}}))
    yield tmp_path
    gc.collect()


@unclosed
@pytest.mark.parametrize("workers", [0, 2])
def test_a_webdataset_is_trained_on_and_resumed(shards: Path, workers: int) -> None:
    source = TrainingSource(f"wds/{shards}", GREY, val="train", batch_size=5, workers=workers, max_bad_images=2)
    opened = open_training(source)
    assert opened.train_size == 40
    whole = list(opened.train(1))
    # The unreadable image is passed over and counted; the reader begins again to fill the epoch.
    assert len(whole) == opened.batches_per_epoch() == 8
    assert same(list(opened.train(1)), whole)
    assert same(list(opened.train(1, start=3)), whole[3:])
    assert not same(list(opened.train(2)), whole)
    plain = list(open_training(replace(source, aug="none")).train(1))
    assert set(flat(plain)) == set(range(40)) - {10}
    assert sorted(flat(validated(opened))) == [level for level in range(40) if level != 10]
    assert str(shards) not in repr(opened.record())
    assert opened.record()["bad_images_total"] >= 1


@unclosed
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_of_a_webdataset_is_counted(shards: Path, workers: int) -> None:
    source = TrainingSource(f"wds/{shards}", GREY, val="train", batch_size=5, workers=workers)
    with pytest.raises(InputRejectedError, match=r"an image cannot be read: .*--max-bad-images"):
        validated(open_training(source))
    opened = open_training(replace(source, max_bad_images=1))
    for _ in range(2):
        assert len(flat(validated(opened))) == 39
        assert len(opened.bad) == 1
