"""What `bnretrofit report` is given -> the files that its page is of: a checkpoint, or the best one of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bnretrofit.checkpoints import read_header
from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.training import History
from bnretrofit.training.saving import Progress
from bnretrofit.workflows.run_folder import SETTINGS, STATE
from bnretrofit.workflows.running import FOLDED, RETROFITTED, TRAINING

__all__ = ["Subject", "subject_of"]

BEST, LAST = "best.safetensors", "last.safetensors"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a page is of.

    Attributes:
        checkpoint: The file that is shown.
        folded: What a run has folded it to; None where it has not, or where this is no run.
        history: Of the run; None where none has begun.
        settings: The run's options.
        run: The run's folder; None where this is none.
    """

    checkpoint: Path
    folded: Path | None = None
    history: History | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: Path | None = None

    @property
    def images(self) -> Path | None:
        """The folder that the run is judged with, or else trained on; None where there is none any more."""
        given = (self.settings.get(name) for name in ("val", "data"))
        return next((Path(name) for name in given if isinstance(name, str) and Path(name).is_dir()), None)


def subject_of(target: Path) -> Subject:
    """Find out what a file or folder is.

    Raises:
        UsageError: It is a run that holds nothing to show yet.
        InputRejectedError: The run's own files are damaged.
    """
    training = target / TRAINING if (target / TRAINING).is_dir() else target
    if not target.is_dir() or not any((part / name).is_file() for part in (target, training) for name in OWN):
        return Subject(target)
    folded = target / FOLDED
    shown = (training / BEST, training / LAST, target / RETROFITTED)
    checkpoint = next((path for path in shown if path.is_file()), None)
    if checkpoint is None:
        raise UsageError("the run holds nothing to show yet", where=str(target), remedy="go on with it (--resume)")
    return Subject(
        checkpoint,
        folded if folded.is_file() and checkpoint == training / BEST else None,
        _history(training / STATE),
        _settings(target / SETTINGS),
        target,
    )


OWN = (STATE, SETTINGS)


def _history(state: Path) -> History | None:
    header = read_header(state) if state.is_file() else None
    if header is None:
        return None
    try:
        return Progress.from_json(header["run"]["progress"]).history
    except (KeyError, TypeError) as error:
        raise InputRejectedError("the run's state is damaged", where=str(state), why=repr(error)) from error


def _settings(path: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputRejectedError("the run's settings cannot be read", where=str(path), why=str(error)) from error
    return found if isinstance(found, dict) else {}
