"""What training does to an image, seen on images whose pixels tell where they were."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from bnretrofit.data import eval_transform
from bnretrofit.errors import UsageError
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training_data.augmentation import MirroredPaddedCrop, augmentation
from bnretrofit.training_data.seeding import preserved, seed

SIDE = 32


def numbered_pixels(height: int = SIDE, width: int = SIDE) -> Image.Image:
    """Column and row of each pixel, from 1, as its red and green."""
    rows, columns = np.mgrid[1 : height + 1, 1 : width + 1].astype(np.uint8)
    return Image.fromarray(np.stack([columns, rows, np.full_like(rows, 200)], axis=-1))


def drawn(transform: MirroredPaddedCrop, image: Image.Image, count: int) -> list[np.ndarray]:
    found = []
    for number in range(count):
        seed(number)
        found.append(np.asarray(transform(image)))
    return found


def test_light_mirrors_and_moves_and_brings_in_black() -> None:
    original = np.asarray(numbered_pixels())
    shifts, mirrored = set(), set()
    for image in drawn(MirroredPaddedCrop(), numbered_pixels(), 200):
        assert image.shape == original.shape
        inside = image[..., 2] > 0
        assert (image[~inside] == 0).all()
        columns = image[..., 0].astype(int)
        flipped = (np.diff(columns[inside.any(1)][0][inside.any(0)]) < 0).any()
        straight = image[:, ::-1] if flipped else image
        rows, places = np.nonzero(straight[..., 2])
        across = int(straight[rows[0], places[0], 0]) - 1 - int(places[0])
        down = int(straight[rows[0], places[0], 1]) - 1 - int(rows[0])
        # Every pixel is the original's, that far away.
        expected = np.zeros_like(original)
        kept_rows = slice(max(0, -down), min(SIDE, SIDE - down))
        kept_columns = slice(max(0, -across), min(SIDE, SIDE - across))
        expected[kept_rows, kept_columns] = original[
            kept_rows.start + down : kept_rows.stop + down, kept_columns.start + across : kept_columns.stop + across
        ]
        assert (straight == expected).all()
        shifts.add((across, down))
        mirrored.add(bool(flipped))
    assert mirrored == {True, False}
    # Four pixels at 32, and every one of them either way.
    assert {across for across, _ in shifts} == {down for _, down in shifts} == set(range(-4, 5))


@pytest.mark.parametrize(("side", "furthest"), [(4, 1), (8, 1), (28, 3), (64, 8)])
def test_light_moves_by_an_eighth_of_the_side(side: int, furthest: int) -> None:
    moved = drawn(MirroredPaddedCrop(), numbered_pixels(side, side), 300)
    black_rows = {int((image[..., 2].max(1) == 0).sum()) for image in moved}
    assert black_rows == set(range(furthest + 1))


def test_light_is_of_what_evaluation_sees() -> None:
    preprocessing = Preprocessing((3, 16, 16), (0.1, 0.2, 0.3), (0.5, 0.5, 0.25), crop_pct=0.8)
    image = numbered_pixels(40, 50)
    evaluated = eval_transform(preprocessing)(image)
    light = augmentation("light", preprocessing)
    seed(0)
    found = light.transform(image)
    assert found.shape == evaluated.shape == (3, 16, 16)
    known = {tuple(pixel.tolist()) for pixel in evaluated.flatten(1).T}
    inside = [tuple(pixel.tolist()) in known for pixel in found.flatten(1).T]
    assert sum(inside) >= 14 * 14
    assert not torch.equal(found, evaluated)
    black = torch.tensor([-0.1 / 0.5, -0.2 / 0.5, -0.3 / 0.25])
    outside = [pixel for pixel, known_pixel in zip(found.flatten(1).T, inside, strict=True) if not known_pixel]
    assert all(torch.allclose(pixel, black) for pixel in outside)


@pytest.mark.parametrize("size", [(20, 24), (None, None)])
def test_none_is_what_evaluation_sees(size: tuple[int | None, int | None]) -> None:
    preprocessing = Preprocessing((3, *size), (0.4,), (0.2,))
    none = augmentation("none", preprocessing)
    assert none.kind == "none"
    image = numbered_pixels()
    assert torch.equal(none.transform(image), eval_transform(preprocessing)(image))


def test_timm_is_its_training_transform() -> None:
    from timm.data.transforms_factory import create_transform

    preprocessing = Preprocessing((3, 96, 80), (0.4,), (0.2,))
    expected = create_transform((3, 96, 80), is_training=True, interpolation="random", mean=(0.4,) * 3, std=(0.2,) * 3)
    image = numbered_pixels(120, 130)
    found = []
    for transform in (expected, augmentation("timm", preprocessing).transform):
        seed(5)
        found.append(transform(image))
    assert torch.equal(*found)
    assert found[0].shape == (3, 96, 80)


@pytest.mark.parametrize(
    ("size", "stored", "kind"),
    [
        ((64, 64), None, "light"),
        ((65, 65), None, "timm"),
        ((32, 65), None, "timm"),
        ((None, None), (64, 64), "light"),
        ((None, None), (65, 64), "timm"),
    ],
)
def test_the_size_of_the_input_decides(
    size: tuple[int | None, int | None], stored: tuple[int, int] | None, kind: str
) -> None:
    chosen = augmentation("auto", Preprocessing((3, *size)), stored)
    assert chosen.kind == kind
    image = numbered_pixels(*(stored or (80, 80)))
    shape = chosen.transform(image).shape
    assert tuple(shape) == (3, *(stored or size))


@pytest.mark.parametrize("aug", ["auto", "timm"])
def test_a_size_that_is_not_known_is_asked_for(aug: str) -> None:
    with pytest.raises(UsageError, match="--img-size"):
        augmentation(aug, Preprocessing((3, None, None)))


@pytest.mark.parametrize("aug", ["light", "timm"])
def test_grey_images_stay_grey(aug: str) -> None:
    found = augmentation(aug, Preprocessing((1, 16, 16))).transform(numbered_pixels().convert("L"))
    assert found.shape == (1, 16, 16)


def numbers() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002 - what timm draws from


def seeded_numbers(*key: int) -> tuple[float, float, float]:
    seed(*key)
    return numbers()


def test_all_generators_are_seeded_by_the_whole_key() -> None:
    assert seeded_numbers(1, 2) == seeded_numbers(1, 2)
    found = [seeded_numbers(*key) for key in ((1, 2), (2, 1), (12,), (1, 2, 0))]
    assert all(len(set(column)) == 4 for column in zip(*found, strict=True))


def test_all_generators_are_put_back_after_an_error_too() -> None:
    seed(5)
    expected = numbers()
    seed(5)
    with preserved():
        assert seeded_numbers(7) != expected
    with pytest.raises(RuntimeError, match="negative dimension"), preserved():
        torch.rand(len(seeded_numbers(7)) - 4)
    assert numbers() == expected
