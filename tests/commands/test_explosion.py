"""The fold explosion: a run driven to it on purpose is caught, and what cures it does."""

import shutil
from pathlib import Path

import pytest

from tests.commands.running import TRAIN, VAL, Outcome, run

CAUGHT = 4


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image under ten labels: over a batch of it, a dense layer's outputs have no variance."""
    folder = tmp_path_factory.mktemp("alike")
    image = min((TRAIN / "3").iterdir())
    for label in range(10):
        (folder / str(label)).mkdir()
        for number in range(4):
            shutil.copyfile(image, folder / str(label) / f"{number}.png")
    return folder


def trained(retrofitted: Path, alike: Path, folder: Path, bn_stats: str) -> Path:
    """What a run leaves, with a high momentum where statistics move."""
    settings = ("--epochs", 2, "--lr", 1e-6, "--aug", "none", "-b", 20, "--device", "cpu")
    moving = ("--bn-momentum", 1) if bn_stats == "batch" else ()
    done = run("finetune", retrofitted, "-d", alike, "-o", folder, *settings, *moving, "--bn-stats", bn_stats)
    assert done.code == 0, done.err
    return folder / "last.safetensors"


def folded(trained: Path, output: Path, *more: object) -> Outcome:
    return run("fold", trained, "-d", VAL, "-o", output, "--json", *more)


def test_a_run_that_is_driven_to_it_is_caught_and_recalibration_cures_it(
    retrofitted: Path, alike: Path, tmp_path: Path
) -> None:
    exploded = trained(retrofitted, alike, tmp_path / "run", "batch")
    done = run("fold", exploded, "-o", tmp_path / "folded.safetensors")
    assert (done.code, (tmp_path / "folded.safetensors").exists()) == (CAUGHT, False)
    assert "beyond the limit" in done.error
    assert "--recalibrate" in done.error
    # Without the guard: that network knows nothing.
    forced = folded(exploded, tmp_path / "forced.safetensors", "--force")
    assert forced.document["accuracy"][1] < 0.7
    cured = folded(exploded, tmp_path / "cured.safetensors", "--recalibrate", TRAIN)
    assert cured.code == 0, cured.err
    assert cured.document["accuracy"][1] > 0.95


def test_frozen_statistics_cannot_be_driven_to_it(retrofitted: Path, alike: Path, tmp_path: Path) -> None:
    sound = trained(retrofitted, alike, tmp_path / "run", "frozen")
    done = folded(sound, tmp_path / "folded.safetensors")
    assert done.code == 0, done.err
    assert done.document["accuracy"][1] > 0.95
