"""What `bnretrofit verify --certify` writes, and `--certificate` checks."""

import json
from pathlib import Path
from typing import Any

from bnretrofit.batches import checked_device
from bnretrofit.certificate import certify, discrepancies
from bnretrofit.errors import InputRejectedError, VerificationError
from bnretrofit.publishing import publish_text
from bnretrofit.workflows.comparing import difference_outside, open_both, preprocessing_of
from bnretrofit.workflows.images import ImageChoice
from bnretrofit.workflows.opening import ModelChoice, Opened, example_for

__all__ = ["certificate_of", "check_certificate", "write_certificate"]


def certificate_of(
    a: Path, b: Path, models: tuple[ModelChoice, ModelChoice], images: ImageChoice, device: str = "cpu"
) -> dict[str, Any]:
    """Prove what can be proved of two checkpoints.

    Returns:
        See `certificate.certify`; and both files' names, digests and models.

    Raises:
        RetrofitError: A file cannot be read, or a model cannot be captured.
    """
    first, second = open_both(a, b, models)
    target = checked_device(device)
    left, right = first.model.to(target), second.model.to(target)
    example = example_for(preprocessing_of(first, second, images), left)
    document = {"files": [_file(first), _file(second)], **certify(left, right, example)}
    outside = difference_outside(first, second)
    return document if outside is None else {**document, "proved": False, "difference": outside[0]}


def write_certificate(path: Path, document: dict[str, Any], *, overwrite: bool) -> None:
    """Write a certificate, whole or not at all.

    Raises:
        RetrofitError: The file exists, or cannot be written.
    """
    text = json.dumps(document, indent=1, sort_keys=True)
    publish_text(path, f"{text}\n", overwrite=overwrite)


def check_certificate(
    path: Path, a: Path, b: Path, models: tuple[ModelChoice, ModelChoice], images: ImageChoice, device: str = "cpu"
) -> dict[str, Any]:
    """Hold a certificate against two checkpoints, without running them on anything.

    Returns:
        What was found: the certificate as it would be made now.

    Raises:
        VerificationError: It does not hold: the files are others, or prove something else.
        RetrofitError: A file cannot be read.
    """
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputRejectedError("the certificate cannot be read", where=str(path), why=why) from error
    found = certificate_of(a, b, models, images, device)
    problems = [] if _files(said) == _files(found) else ["it is one of other files"]
    problems += discrepancies(said, found)
    if problems:
        raise VerificationError(
            "the certificate does not hold for these files",
            where=str(path),
            why="; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else ""),
            remedy=_other_kernel(said, found),
        )
    return found


def _files(document: Any) -> list[Any] | None:
    """All that is said of both files, but for what they are called."""
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
        return None
    return [{key: value for key, value in file.items() if key != "name"} for file in files]


def _other_kernel(said: Any, found: dict[str, Any]) -> str | None:
    made_with = said.get("kernel") if isinstance(said, dict) else None
    if made_with == found["kernel"]:
        return None
    return f"it was made with {made_with}, and this is {found['kernel']}: another kernel may round otherwise"


def _file(opened: Opened) -> dict[str, Any]:
    checkpoint = opened.checkpoint
    return {
        "name": None if checkpoint is None else checkpoint.path.name,
        "sha256": None if checkpoint is None else checkpoint.digest.result(),
        "model": str(opened.name),
        "stage": opened.stage,
    }
