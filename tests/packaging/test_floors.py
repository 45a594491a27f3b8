"""The floors of pyproject.toml hold, and an import that breaks them is seen."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

# The command's own door: `python -m importlinter` does not exist.
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its contracts, to be spoilt."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "bnretrofit", tmp_path / "bnretrofit", ignore=ignored)
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the floors of the package in a folder; its working directory comes first on its import path."""
    command = [sys.executable, "-c", LINT_IMPORTS, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=120, check=False)


def test_the_floors_hold(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "planted", "contract"),
    [
        ("errors", "import bnretrofit.pipeline", "looks down only"),
        ("planning", "def late() -> None:\n    import bnretrofit.folding", "looks down only"),
        ("a_room_on_no_floor", "ROOM = 1", "looks down only"),
        ("sites", "import bnretrofit_cli", "does not know its command line"),
        ("sites", "def late() -> None:\n    import cli.main", "does not know its command line"),
        ("folding", "def late() -> None:\n    import timm", "for zoo and data alone"),
        ("comparison", "from torchvision.models import vgg", "for zoo and data alone"),
    ],
)
def test_a_planted_import_is_rejected(copy: Path, module: str, planted: str, contract: str) -> None:
    with (copy / "bnretrofit" / f"{module}.py").open("a") as file:
        file.write(f"\n{planted}\n")
    done = lint(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    # Joined, since the report wraps its lines.
    report = " ".join(done.stdout.split())
    assert f"{contract} BROKEN" in report, done.stdout
    assert " 1 broken." in report, done.stdout
