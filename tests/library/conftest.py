"""Three folders of images, and where training data comes from."""

from pathlib import Path

import pytest

from bnretrofit.training_data import TrainingSource
from tests.library.class_folders import COLOURS, SMALL, draw


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
