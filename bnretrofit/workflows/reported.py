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
from bnretrofit.training_data.folders import taken_apart
from bnretrofit.workflows.run_folder import BEST, LAST, SETTINGS, STATE, as_state
from bnretrofit.workflows.running import FOLDED, RETROFITTED, TRAINING

__all__ = ["Subject", "subject_of"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a page is of.

    Attributes:
        checkpoint: The file that is shown.
        folded: What a run has folded it to; None where it has not, or where this is no run.
        history: Of the run; None where none has begun.
        settings: The run's options.
        run: The run's folder; None where this is none.
        images: The folder that the run is judged with, or else trained on; None where there is none any more.
        notes: What is to be told of these images.
    """

    checkpoint: Path
    folded: Path | None = None
    history: History | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: Path | None = None
    images: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def max_bad_images(self) -> int:
        """How many of its images may be unreadable, as the run was told."""
        given = self.settings.get("max-bad-images")
        return given if isinstance(given, int) else 0


def subject_of(target: Path) -> Subject:
    """Find out what a file or folder is.

    Raises:
        UsageError: It is a run that holds nothing to show yet.
        InputRejectedError: The run's own files are damaged.
    """
    training = target / TRAINING if (target / TRAINING).is_dir() else target
    own = [path for path in (training / BEST, training / LAST, target / RETROFITTED) if path.is_file()]
    begun = (training / STATE).is_file() or (target / SETTINGS).is_file()
    if not target.is_dir() or not begun:
        return Subject(target)
    if not own:
        if not (training / STATE).is_file() and _holds_something_else(target):
            # Other tools keep a file of settings in their folders, too.
            return Subject(target)
        raise UsageError("the run holds nothing to show yet", where=str(target), remedy="go on with it (--resume)")
    settings = _settings(target / SETTINGS)
    images, notes = _images(settings)
    folded = target / FOLDED
    is_folded = folded.is_file() and own[0] == training / BEST
    history = _history(training / STATE)
    return Subject(own[0], folded if is_folded else None, history, settings, target, images, notes)


def _holds_something_else(folder: Path) -> bool:
    return any(path.name != SETTINGS and not path.name.startswith(".") for path in folder.iterdir())


def _images(settings: Mapping[str, Any]) -> tuple[Path | None, tuple[str, ...]]:
    """The folder of the run's options, and what is to be told of it."""
    root, val = (settings.get(name) for name in ("data", "val"))
    if not isinstance(root, str):
        return None, ()
    train, judged = taken_apart(Path(root), Path(val) if isinstance(val, str) else None, None)
    folder = train if judged is None else judged
    if not folder.is_dir():
        return None, (f"the run's images are not at '{folder}' any more: pass -d",)
    if judged is None:
        return folder, (f"the run has no folder of validation images: those of '{folder}' were trained on",)
    return folder, ()


def _history(state: Path) -> History | None:
    if not state.is_file():
        return None
    header = as_state(state, read_header(state))
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
