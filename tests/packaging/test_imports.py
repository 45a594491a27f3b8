"""What an import must not bring in, and what being asked for help must not."""

import json

import pytest

from tests.packaging.conftest import Installed

HELP = """
import sys
from bnretrofit_cli.main import main
sys.argv = ["bnretrofit", "--help"]
try:
    main()
except SystemExit:
    pass
"""
# On stderr, since the code under watch may print.
REPORT = """
import json, sys
print(json.dumps(sorted(set(sys.modules) & {"timm", "torch", "torchvision"})), file=sys.stderr)
"""


def heavy_modules(installed: Installed, code: str) -> list[str]:
    """Which of timm, torch and torchvision are imported once the code has run in a fresh interpreter."""
    found = json.loads(installed.python("-c", code + REPORT).stderr.splitlines()[-1])
    return [str(name) for name in found]


def test_the_library_brings_in_neither_timm_nor_torchvision(installed: Installed) -> None:
    assert set(heavy_modules(installed, "import bnretrofit\nbnretrofit.retrofit\n")) <= {"torch"}


def test_help_brings_in_no_torch(installed: Installed) -> None:
    assert heavy_modules(installed, HELP) == []


@pytest.mark.parametrize("name", ["torch", "torchvision", "timm"])
def test_the_watch_sees_an_import(name: str, installed: Installed) -> None:
    assert name in heavy_modules(installed, f"import {name}\n")
