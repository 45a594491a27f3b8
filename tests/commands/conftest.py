"""Folders to run commands in, images of classes, and retrofitted files that many tests read."""

from pathlib import Path

import pytest
import torch

from tests.commands import factories
from tests.commands.running import DIGITS, MODEL, TRAIN, Place, draw_classes, draw_images, factory, run, save_state


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A small checkpoint, images, and an empty folder for outputs."""
    made = Place(tmp_path)
    made.out.mkdir()
    draw_images(made.images)
    save_state(made.plain, factories.plain())
    return made


@pytest.fixture(scope="session")
def retrofitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled checkpoint with norms, calibrated on 40 of its training images; to be read only."""
    output = tmp_path_factory.mktemp("retrofitted") / "digits-bn.safetensors"
    assert run("retrofit", DIGITS, "-m", MODEL, "-d", TRAIN, "-n", 40, "-o", output).code == 0
    return output


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plain` with norms, as a .safetensors file beside `plain.pth` and `images`; to be read only."""
    torch.manual_seed(0)
    made = Place(tmp_path_factory.mktemp("small"))
    made.out.mkdir()
    draw_images(made.images)
    save_state(made.plain, factories.plain())
    assert made.retrofit(made.plain, "plain", "small.safetensors").code == 0
    return made.out / "small.safetensors"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    draw_classes(folder / "train")
    draw_classes(folder / "val", each=4)
    return folder


@pytest.fixture(scope="module")
def bn(tmp_path_factory: pytest.TempPathFactory, labelled: Path) -> Path:
    """The factory `plain` with norms, calibrated on the labelled images."""
    folder = tmp_path_factory.mktemp("bn")
    torch.manual_seed(0)
    plain = save_state(folder / "plain.pth", factories.plain())
    images = ("-d", labelled / "train", "-o", folder / "bn.safetensors")
    assert run("retrofit", plain, "-m", factory("plain"), "--trust-code", *images).code == 0
    return folder / "bn.safetensors"
