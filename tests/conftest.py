"""What every test shares: how hypothesis searches, which worker runs it, the real networks and images, and a seed."""

import os
import shutil
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[1]

# Read once, when torch is imported: workers that compute with all cores each wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell has what it puts in the background ignore interruptions, and so would all processes that the tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests that share what takes half a minute to make, such as the built wheel: one worker makes it and runs them all.
TOGETHER = (
    "tests/commands/test_report_browser.py",
    "tests/packaging/",
    "tests/reliability/test_slices.py",
    "tests/zoo/test_real_networks.py",
)
# Folders whose tests may take minutes: begun last, one would keep its worker busy when the others have ended.
LONG = ("laws", "zoo")

# A convolution takes as long as it takes: no deadline, and a slow draw is no defect. A run that decides about a change
# must not decide by luck, so it searches the same examples every time; at a desk the search goes on from where it was.
settings.register_profile("desk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("desk"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Tests of `TOGETHER` in one worker each, largest group first, then one by one to whoever is free."""

    def _split_scope(self, nodeid: str) -> str:
        return next((start for start in TOGETHER if nodeid.startswith(start)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """How pytest-xdist hands out tests; its own marks for groups have no effect under pytest 9.2."""
    return Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, if there are workers."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.parent.name not in LONG)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give torch the same seed in every test: their order is random, their numbers are not."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def assets() -> Path:
    """Real trained networks and images: in ``$BNRETROFIT_ASSETS``, or in ``shared/assets`` beside the checkout."""
    named = os.environ.get("BNRETROFIT_ASSETS")
    folder = Path(named).expanduser() if named else ROOT.parent / "shared" / "assets"
    if (folder / "weights").is_dir():
        return folder.resolve()
    if named:
        # Asked for by name, so not there is a mistake and no reason to pass over the test.
        pytest.fail(f"BNRETROFIT_ASSETS is {named}, which has no folder `weights`")
    pytest.skip(f"needs the real networks and images: no {folder}; set BNRETROFIT_ASSETS to their folder")


@pytest.fixture(scope="session")
def imagenette(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Ten ImageNet classes as ``train/WNID/*.JPEG`` (3,000) and ``val/WNID/*.JPEG`` (1,000), 224 px."""
    yield from _extracted(assets / "data" / "imagenette.tar.gz", tmp_path_factory)


@pytest.fixture(scope="session")
def cifar10(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """CIFAR-10 as ``train/CLASS/*.jpg`` (50,000) and ``test/CLASS/*.jpg`` (5,000), 32 px."""
    yield from _extracted(assets / "data" / "cifar10.tar.gz", tmp_path_factory)


def _extracted(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp(archive.name.removesuffix(".tar.gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    yield folder
    # Tens of thousands of files, of no use to whoever looks into a failure.
    shutil.rmtree(folder)
