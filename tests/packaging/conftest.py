"""The project as a user has it: built from a clean copy of the checkout, installed, and away from it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Installed:
    """An installation outside the checkout, with its own environment variables and an empty folder to stand in.

    Attributes:
        folder: what pip installed: packages, and scripts in ``bin``.
        home: where its commands are run.
    """

    folder: Path
    home: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables under which Python and the shell find this installation before any other."""
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**os.environ, "PATH": path, "PYTHONPATH": str(self.folder)}

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run this interpreter in the installation and give back what it printed; a failure is the test's."""
        return finished([sys.executable, *arguments], cwd=self.home, env=self.environment)


def finished(
    command: list[str], cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed, and fail with all it printed where it does not."""
    done = subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{command} in {cwd} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="session")
def clean_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the checkout that git tracks or would track: no build leftovers, no caches."""
    copy = tmp_path_factory.mktemp("clean") / "bnretrofit"
    listed = finished(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT).stdout
    for name in filter(None, listed.split("\0")):
        # A file that was deleted and not yet committed is still listed.
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def wheel(clean_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, by way of the source distribution: what is left out of that one is missed here."""
    folder = tmp_path_factory.mktemp("dist")
    finished([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(clean_copy)], cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, installed alone; what it depends on comes from the environment of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    home = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-warn-conflicts"]
    finished([*command, "--disable-pip-version-check", "--target", str(folder), str(wheel)], cwd=home)
    return Installed(folder, home)
