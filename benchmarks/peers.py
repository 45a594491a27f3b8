"""Other people's tools, which are measured where they are installed, and otherwise said to be missing."""

import importlib
from importlib import metadata
from typing import Any

__all__ = ["NotInstalledError", "peer", "versions"]

DISTRIBUTIONS = ("aimet-torch", "fvcore", "onnx", "onnxruntime", "onnxsim", "TinyNeuralNetwork")


class NotInstalledError(Exception):
    """A peer cannot be imported here."""


def peer(module: str) -> Any:
    """Import a peer's module.

    Raises:
        NotInstalledError: The peer, or something that it needs, is not there.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotInstalledError(f"{module.partition('.')[0]}: {error}") from error


def versions() -> dict[str, str | None]:
    """Of each peer that is a package of its own; None for one that is not installed as a package."""
    found: dict[str, str | None] = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
