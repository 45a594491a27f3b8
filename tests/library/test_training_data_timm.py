"""timm's data sets whose images have numbers -> batches to train on."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training_data import LabelledBatch, TrainingSet, TrainingSource, open_training, timm_datasets
from bnretrofit.training_data.timm_datasets import parse_dataset

GREY = Preprocessing((1, None, None))


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """MNIST's files, with 30 images to train on and 10 to test: image i is of class i % 10 and of level 3 * i."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 30), ("t10k", 10)):
        pixels = b"".join(bytes([3 * index]) * 784 for index in range(count))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, count, 28, 28) + pixels)
        labels = bytes(index % 10 for index in range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels)
    return tmp_path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name, level in (("ant", 10), ("dog", 20)):
        for number in range(4):
            path = tmp_path / "images" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), level + number).save(path)
    return tmp_path / "images"


def levels(batch: torch.Tensor) -> list[int]:
    return (batch[:, 0, 0, 0] * 255).round().int().tolist()


def validated(opened: TrainingSet, rank: int = 0, ranks: int = 1) -> list[LabelledBatch]:
    batches = opened.validation(rank, ranks)
    assert batches is not None
    return list(batches)


def test_a_data_set_of_torchvision_is_trained_on(mnist: Path) -> None:
    source = TrainingSource("torch/mnist", GREY, val="validation", data_dir=str(mnist), aug="none", batch_size=10)
    opened = open_training(source)
    assert (len(opened.classes), opened.train_size, opened.val_size) == (10, 30, 10)
    batches = list(opened.train(0))
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert images.shape == (30, 1, 28, 28)
    assert labels.tolist() == [level // 3 % 10 for level in levels(images)]
    assert sorted(levels(images)) == list(range(0, 90, 3))
    assert levels(images) != sorted(levels(images))
    ((images, labels),) = validated(opened)
    assert (levels(images), labels.tolist()) == (list(range(0, 30, 3)), list(range(10)))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(list(opened.train(0, start=1)), batches[1:], strict=True))
    assert opened.record()["dataset"] == "torch/mnist"


def test_a_share_of_a_data_set_is_set_aside(mnist: Path) -> None:
    source = TrainingSource("torch/mnist", GREY, val_split=0.3, data_dir=str(mnist), aug="none", batch_size=20)
    opened = open_training(source)
    ((images, labels),) = validated(opened)
    assert sorted(labels.tolist()) == list(range(10))
    (trained,) = opened.train(0)
    assert not set(levels(trained[0])) & set(levels(images))


def test_an_image_folder_of_torchvision_is_decoded_like_any_other(folders: Path) -> None:
    Image.new("I;16", (8, 8), 257 * 99).save(folders / "ant" / "0.png")
    source = TrainingSource("torch/image_folder", GREY, data_dir=str(folders), aug="none", batch_size=8)
    ((images, _),) = open_training(source).train(0)
    assert sorted(levels(images)) == [11, 12, 13, 20, 21, 22, 23, 99]
    (folders / "dog" / "0.png").write_text("no image")
    with pytest.raises(InputRejectedError, match=r"an image cannot be read: .*--max-bad-images"):
        list(open_training(source).train(0))


def test_a_data_set_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in ("torch/mnist", "torch/no_such_set"):
        with pytest.raises(InputRejectedError, match=f"{name}: the split train of the data set cannot be opened: "):
            open_training(TrainingSource(name, GREY, data_dir=str(tmp_path)))


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(timm_datasets.PACKAGES, "tfds", "no_such_package")
    with pytest.raises(UsageError, match=r"no_such_package.*Install it: python -m pip install no-such-package"):
        open_training(TrainingSource("tfds/mnist", Preprocessing((1, 28, 28))))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["images", "./torch/mnist", "/torch/mnist", "torch", "torch/", "data/torch/mnist"])
def test_other_names_are_folders(name: str) -> None:
    assert parse_dataset(name) is None


def test_the_folder_of_a_webdataset_follows_its_prefix() -> None:
    found = parse_dataset("WDS//shards/of")
    assert found is not None
    assert (found.prefix, found.data_dir, found.title, found.streamed) == ("wds", "/shards/of", "wds", True)


def test_a_data_set_of_hugging_face_is_trained_on(folders: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    source = TrainingSource(f"hfds/{folders}", GREY, aug="none", batch_size=8, data_dir=str(tmp_path / "cache"))
    opened = open_training(source)
    assert opened.classes == ("ant", "dog")
    ((images, labels),) = opened.train(0)
    assert sorted(zip(levels(images), labels.tolist(), strict=True)) == [
        *((10 + number, 0) for number in range(4)),
        *((20 + number, 1) for number in range(4)),
    ]
    assert opened.record()["dataset"] == "hfds"


def test_an_unreadable_image_of_hugging_face_is_not_replaced(folders: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    pa, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))

    content = [path.read_bytes() for path in sorted(folders.rglob("*.png"))]
    content[2] = b"no image"
    stored = [{"bytes": each, "path": None} for each in content]
    (tmp_path / "set").mkdir()
    table = pa.table({"image": stored, "label": [0] * 4 + [1] * 4})
    parquet.write_table(table, tmp_path / "set" / "train.parquet")
    cache = str(tmp_path / "cache")
    source = TrainingSource(f"hfds/{tmp_path / 'set'}", GREY, aug="none", batch_size=8, data_dir=cache)
    with pytest.raises(InputRejectedError, match=r"hfds train 2: an image cannot be read: .*--max-bad-images"):
        list(open_training(source).train(0))
    opened = open_training(replace(source, max_bad_images=1))
    ((images, labels),) = opened.train(0)
    assert sorted(levels(images)) == [10, 11, 13, 20, 21, 22, 23]
    assert labels.tolist() == [int(level >= 20) for level in levels(images)]
    assert [line.split(": ")[0] for line in opened.bad] == ["hfds train 2"]
