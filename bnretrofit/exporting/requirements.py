"""Packages that only some commands need."""

import importlib
from typing import Any

from bnretrofit.errors import UsageError

__all__ = ["required"]


def required(module: str, extra: str) -> Any:
    """Import a module that an extra brings.

    Raises:
        UsageError: It is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UsageError(
            f"the package {package} cannot be imported",
            why=str(error),
            remedy=f"install it: python -m pip install 'bnretrofit[{extra}]'",
        ) from error
