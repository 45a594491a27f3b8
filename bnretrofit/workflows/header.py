"""What a file of ours says about itself."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bnretrofit.preprocessing import Preprocessing
from bnretrofit.sites import Plan
from bnretrofit.workflows.opening import Opened
from bnretrofit.workflows.written import HEADER_SCHEMA, Changes

__all__ = ["header_for", "versions"]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in ("bnretrofit", "torch", "torchvision", "timm", "safetensors"):
        try:
            # None where the package's own record of itself is cut short, as while it is being installed.
            found[package] = version(package) or "unknown"
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def header_for(
    source: Opened,
    *,
    stage: str,
    model: str,
    preprocessing: Preprocessing,
    changes: Changes,
    plan: Plan | None = None,
    calibration: dict[str, Any] | None = None,
    folds: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The header of an output.

    Args:
        source: What it was made from.
        stage: "retrofitted" or "folded".
        model: Its architecture.
        preprocessing: Of its images.
        plan: With which norms were inserted.
        changes: What folding changed in the architecture.
        calibration: The images the statistics were measured on.
        folds: Which norms were folded, and into what: see `changing.fold_record`.

    Returns:
        A JSON document.
    """
    return {
        "schema_version": HEADER_SCHEMA,
        "stage": stage,
        "model": model,
        "num_classes": source.num_classes,
        "submodule": source.submodule,
        "preprocessing": preprocessing.to_json(),
        "plan": None if plan is None else plan.to_json(),
        "folded": changes.to_json(),
        "calibration": calibration,
        **({} if folds is None else {"folds": folds}),
        "source": {
            "file": None if source.checkpoint is None else source.checkpoint.path.name,
            "sha256": None if source.checkpoint is None else source.checkpoint.digest.result(),
        },
        "versions": versions(),
    }
