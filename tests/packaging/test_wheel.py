"""What the wheel holds, and that it runs away from the checkout, fast enough to be asked for help."""

import resource
import zipfile
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, Installed, finished

HELP_CPU_SECONDS = 0.3


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_nothing_is_installed_under_a_global_name(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"bnretrofit", "bnretrofit_cli", "bnretrofit_checkpoints"}


@pytest.mark.parametrize(
    ("folder", "package"),
    [("bnretrofit", "bnretrofit"), ("cli", "bnretrofit_cli"), ("checkpoints", "bnretrofit_checkpoints")],
)
def test_every_file_of_a_package_is_in_it(folder: str, package: str, names: list[str], clean_copy: Path) -> None:
    files = [path.relative_to(clean_copy / folder) for path in (clean_copy / folder).rglob("*") if path.is_file()]
    assert files
    missing = {f"{package}/{file.as_posix()}" for file in files} - set(names)
    assert not missing, f"in {folder}/ and not in the wheel, see packages and package-data in pyproject.toml: {missing}"


@pytest.mark.parametrize("pattern", ["*.safetensors", "*.md", "digits/**/*.png"])
def test_the_bundled_checkpoint_travels_with_its_card_and_images(pattern: str, installed: Installed) -> None:
    assert list((installed.folder / "bnretrofit_checkpoints").glob(pattern))


def test_the_types_are_marked_and_the_licence_is_there(names: list[str]) -> None:
    assert "bnretrofit/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_its_command_runs_outside_the_checkout(installed: Installed) -> None:
    script = installed.folder / "bin" / "bnretrofit"
    shown = finished([str(script), "--help"], cwd=installed.home, env=installed.environment).stdout
    assert shown.startswith("Usage: bnretrofit ")
    assert "verify" in shown


def test_it_is_imported_from_the_installation(installed: Installed) -> None:
    code = "import bnretrofit, bnretrofit_cli.main as cli; print(bnretrofit.__file__); print(cli.__file__)"
    places = installed.python("-c", code).stdout.split()
    assert len(places) == 2
    assert all(Path(place).is_relative_to(installed.folder) for place in places)
    assert not any(Path(place).is_relative_to(ROOT) for place in places)


def test_help_answers_in_a_third_of_a_second(installed: Installed) -> None:
    # CPU time, since the machine may be busy with something else; the best of three, since the first run reads files
    # from a cold disk and any run may be disturbed: noise only ever adds, so the least is nearest to the program's own.
    best = min(_cpu_seconds(installed) for _ in range(3))
    assert best < HELP_CPU_SECONDS


def _cpu_seconds(installed: Installed) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished([str(installed.folder / "bin" / "bnretrofit"), "--help"], cwd=installed.home, env=installed.environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
