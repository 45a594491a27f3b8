"""What every test shares: how hypothesis searches, where the real networks and images are, and a seed."""

import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# A convolution takes as long as it takes: no deadline, and a slow draw is no defect. A run that decides about a change
# must not decide by luck, so it searches the same examples every time; at a desk the search goes on from where it was.
settings.register_profile("desk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("desk"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


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
