"""What is known of where a checkpoint came from -> facts, in groups, for a reader."""

from collections.abc import Iterator, Mapping
from typing import Any

from bnretrofit.pages.content import Facts
from bnretrofit.workflows.header import versions
from bnretrofit.workflows.opening import Opened
from bnretrofit.workflows.reported import Subject

__all__ = ["provenance_of"]

# Of a list that has no end, the first.
LISTED = 20


def provenance_of(subject: Subject, opened: Opened, used: Mapping[str, Any]) -> tuple[tuple[str, Facts], ...]:
    """The groups that have anything in them.

    Args:
        subject: What the page is of.
        opened: The checkpoint that is shown.
        used: What the page itself was made with: images, device.
    """
    checkpoint = opened.checkpoint
    header: Mapping[str, Any] = (None if checkpoint is None else checkpoint.header) or {}
    file = {
        "name": subject.checkpoint.name,
        "size": f"{subject.checkpoint.stat().st_size:,} bytes" if subject.checkpoint.is_file() else None,
        "sha256": None if checkpoint is None else checkpoint.digest.result(),
        "model": str(opened.name),
        "stage": opened.stage,
        "classes": opened.num_classes,
        "submodule": opened.submodule or None,
        "preprocessing": str(opened.preprocessing),
    }
    groups = {
        "The file": file,
        "Made from": header.get("source"),
        "With": header.get("versions"),
        "Calibrated on": header.get("calibration"),
        "Trained": header.get("training"),
        "The run": dict(subject.settings),
        "This page": {**used, **versions()},
    }
    facts = ((title, tuple(_facts(group))) for title, group in groups.items() if isinstance(group, Mapping))
    return tuple((title, pairs) for title, pairs in facts if pairs)


def _facts(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of a document with its path; what is nothing is left out."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _facts(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            if value:
                more = f" and {len(value) - LISTED} more" if len(value) > LISTED else ""
                yield f"{prefix}{key}", ", ".join(map(str, value[:LISTED])) + more
        elif value is not None:
            yield f"{prefix}{key}", str(value)
