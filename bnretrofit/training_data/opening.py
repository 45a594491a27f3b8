"""What a user said of the images to train on -> the set of them."""

import itertools
from pathlib import Path

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.training_data.augmentation import Augmentation, augmentation
from bnretrofit.training_data.bad_images import BadImages
from bnretrofit.training_data.folders import check_classes, open_folders
from bnretrofit.training_data.indexed import IndexedSet
from bnretrofit.training_data.numbered import numbered
from bnretrofit.training_data.samples import Part
from bnretrofit.training_data.source import TRAIN_SPLIT, TrainingSet, TrainingSource
from bnretrofit.training_data.splits import split
from bnretrofit.training_data.streamed import StreamedSet
from bnretrofit.training_data.timm_datasets import DatasetName, open_dataset, parse_dataset

__all__ = ["open_training"]


def open_training(source: TrainingSource) -> TrainingSet:
    """Find the images to train on and those to validate with.

    Args:
        source: What the user said.

    Raises:
        UsageError: A choice is out of range, or a package that the data set needs is not installed.
        InputRejectedError: The images cannot be found, or what is validated with has classes that training has not.
    """
    for name, value, least in (("batch-size", source.batch_size, 1), ("workers", source.workers, 0)):
        if value < least:
            raise UsageError(f"--{name} must be at least {least}", why=f"it is {value}")
    if source.val is not None and source.val_split is not None:
        raise UsageError("val and val_split exclude each other", remedy="leave out one of them")
    dataset = parse_dataset(source.root, source.data_dir)
    if dataset is None:
        if source.data_dir is not None or source.train_split != TRAIN_SPLIT:
            remedy = "leave them out, and name the folder itself"
            raise UsageError(
                "--data-dir and --train-split are for data sets by timm's name", where=source.root, remedy=remedy
            )
        return _from_folders(source)
    return _from_stream(source, dataset) if dataset.streamed else _from_numbered(source, dataset)


def _from_folders(source: TrainingSource) -> IndexedSet:
    found = open_folders(
        Path(source.root),
        None if source.val is None else Path(source.val),
        val_split=source.val_split,
        seed=source.seed,
        max_bad_images=source.max_bad_images,
    )
    bad_images = BadImages(source.max_bad_images, found.others)
    return IndexedSet(source, _augmentation(source, found.train), found.train, found.val, bad_images)


def _from_numbered(source: TrainingSource, dataset: DatasetName) -> IndexedSet:
    train, val = _parts(source, dataset)
    return IndexedSet(source, _augmentation(source, train), train, val, BadImages(source.max_bad_images))


def _parts(source: TrainingSource, dataset: DatasetName) -> tuple[Part, Part | None]:
    def opened(name: str) -> Part:
        return Part.whole(numbered(open_dataset(dataset, name), f"{dataset.title} {name}"))

    train = opened(source.train_split)
    if source.val is not None:
        val = opened(source.val)
        classes = train.samples.classes, val.samples.classes
        if classes[0] != classes[1]:
            check_classes(classes[1], classes[0], where=f"{dataset.name} {source.val}")
            raise InputRejectedError(
                "the classes to validate with are numbered otherwise than those of training", where=dataset.name
            )
        return train, val
    if source.val_split is None:
        return train, None
    labels = train.samples.labels
    # Where only reading an image tells its class, a share of them all is set aside.
    kept, aside = split((0,) * len(train) if labels is None else labels, source.val_split, source.seed)
    return Part(train.samples, kept), Part(train.samples, aside)


def _from_stream(source: TrainingSource, dataset: DatasetName) -> StreamedSet:
    if source.val is None and source.val_split is not None:
        raise UsageError(
            "no share of a stream can be set aside",
            where=dataset.name,
            remedy="name a split of it to validate with, with --val",
        )
    return StreamedSet(source, dataset, augmentation(source.aug, source.preprocessing))


def _augmentation(source: TrainingSource, train: Part) -> Augmentation:
    stored = _stored_size(source, train) if source.preprocessing.input_size[1] is None else None
    return augmentation(source.aug, source.preprocessing, stored)


def _stored_size(source: TrainingSource, train: Part) -> tuple[int, int] | None:
    """Height and width of the first image that can be read."""
    for index in itertools.islice(train.indices.tolist(), source.max_bad_images + 1):
        try:
            image, _ = train.samples.read(index, source.mode)
        except InputRejectedError:
            # It is counted when a batch has it.
            continue
        return image.height, image.width
    return None
