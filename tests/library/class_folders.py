"""Folders of small images by class, and what is compared of the batches that come of them."""

from pathlib import Path

import torch
from PIL import Image

from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training_data import LabelledBatch, TrainingSet

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
