"""The folder of a run: its state, its best and last weights and its table, each whole at any moment."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from bnretrofit.checkpoints import read, read_header
from bnretrofit.checkpoints.places import BEST, LAST, STATE
from bnretrofit.errors import InputRejectedError, ResourceError, RetrofitError, UsageError
from bnretrofit.image_files import visible
from bnretrofit.originals import check_originals
from bnretrofit.publishing import write
from bnretrofit.training import Epoch
from bnretrofit.training.protocols import Weights
from bnretrofit.training.saving import SavedRun
from bnretrofit.workflows.run_identity import known_again, model_known_as
from bnretrofit.workflows.tensorboard import TensorBoardLog
from bnretrofit.workflows.written import STATE_STAGE
from bnretrofit.workplaces import Workplace

__all__ = [
    "BEST",
    "LAST",
    "PLOT",
    "SETTINGS",
    "STATE",
    "RunFolder",
    "as_state",
    "check_apart",
    "check_there",
    "check_weights_elsewhere",
    "differing",
    "model_of",
    "opened_run",
    "rate_of",
    "write_text",
]

SETTINGS, SUMMARY, PLOT = "args.yaml", "summary.csv", "plot.png"

Describe = Callable[[str, Epoch, bool], Mapping[str, Any]]
"""(name, epoch, measured) -> the header of weights that are kept."""


@dataclass(slots=True)
class RunFolder:
    """See `training.protocols.Keeper`. Of several ranks the main one writes, and all read.

    Attributes:
        path: The folder.
        settings: All that the outcome depends on; what has other settings is not gone on with.
        describe: Gives the headers.
        save_steps: Save the state after so many steps, besides the end of each epoch; None for epochs alone.
        writes: Whether this process writes.
        log: Is told of each epoch, too; None for nobody.
    """

    path: Path
    settings: dict[str, Any]
    describe: Describe
    save_steps: int | None = None
    writes: bool = True
    log: TensorBoardLog | None = None
    _lock: Workplace | None = field(default=None)

    def enter(self) -> None:
        """Keep other processes from writing into the folder until `leave`.

        Raises:
            UsageError: Another process is at it.
        """
        if self.writes:
            self._lock = Workplace(self.path / "run")

    def leave(self) -> None:
        """Let others in."""
        if self.log is not None:
            self.log.close()
        if self._lock is not None:
            self._lock.leave()
            self._lock = None

    def load(self) -> SavedRun | None:
        """The state that was saved last.

        Raises:
            InputRejectedError: It is damaged.
            UsageError: The run has other settings.
        """
        path = self.path / STATE
        if not path.is_file():
            return None
        found = read(path)
        header = as_state(path, found.header)
        changed = differing(known_again(header["settings"]), known_again(self.settings))
        if changed:
            raise UsageError(
                "the run was begun with other settings",
                where=str(self.path),
                why="; ".join(changed),
                remedy="go on with the same, or begin another run",
            )
        saved = SavedRun(found.tensors, header["run"])
        if self.writes and self.log is not None:
            # A run that has ended saves nothing more.
            self.log.write(saved.progress.history)
        return saved

    def is_due(self, step: int) -> bool:
        """Whether the state is to be saved after this step."""
        return self.save_steps is not None and step % self.save_steps == 0

    def save(self, run: SavedRun) -> None:
        """Keep a state, and the table of the epochs done."""
        if self.writes:
            header = {"stage": STATE_STAGE, "settings": self.settings, "run": run.document}
            write(self.path / STATE, run.tensors, header, overwrite=True)
            write_text(self.path / SUMMARY, run.progress.history.to_csv())
            if self.log is not None:
                self.log.write(run.progress.history)

    def weights(self, name: str) -> Weights | None:
        """The weights kept under a name."""
        path = self.path / f"{name}.safetensors"
        if not path.is_file():
            return None
        found = read(path)
        training = (found.header or {}).get("training") or {}
        return Weights(found.tensors, training.get("epoch"), training.get("statistics") == "measured")

    def keep(self, name: str, tensors: dict[str, Tensor], epoch: Epoch, *, measured: bool) -> None:
        """Keep weights under a name."""
        if self.writes:
            write(self.path / f"{name}.safetensors", tensors, self.describe(name, epoch, measured), overwrite=True)


@contextmanager
def opened_run(path: Path, *, resume: bool, writes: bool = True) -> Iterator[None]:
    """Make the folder of a run, or find the one that is to be gone on with.

    What is refused before it has left anything in a folder that was made for it leaves no folder either.

    Args:
        path: The folder.
        resume: Whether a run that is there is gone on with.
        writes: Whether this process does so; of several ranks, one.

    Raises:
        UsageError: It holds something, or there is nothing to go on with.
        ResourceError: It cannot be made.
    """
    if not writes:
        yield
        return
    made = _opened_run(path, resume=resume)
    try:
        yield
    except RetrofitError:
        if made:
            # Not if it holds something by now.
            with suppress(OSError):
                path.rmdir()
        raise


def _opened_run(path: Path, *, resume: bool) -> bool:
    """Whether the folder was made by this very call."""
    if path.exists() and not path.is_dir():
        raise UsageError("the run's folder is a file", where=str(path), remedy="choose another name")
    # But for what a process that was killed has left of its lock, and of files that it was writing.
    there = path.is_dir() and bool(visible(path))
    begun = any((path / name).is_file() for name in (STATE, SETTINGS, BEST, LAST))
    if there and not begun:
        raise UsageError("the folder holds something that is no run", where=str(path), remedy="choose another name")
    if there and not resume:
        remedy = "pass --resume to go on with it, or choose another name"
        raise UsageError("the run's folder holds something already", where=str(path), remedy=remedy)
    if not path.parent.is_dir():
        where = str(path.parent)
        raise UsageError("the run's parent folder does not exist", where=where, remedy="make the folder first")
    try:
        new = not path.is_dir()
        path.mkdir(parents=False, exist_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise ResourceError("the run's folder cannot be made", where=str(path), why=why) from error
    return new


def check_there(path: Path, *, resume: bool) -> None:
    """Refuse to go on with a run whose folder is not there: its path may be mistyped, and a new run would take hours.

    All ranks may ask: none makes the folder of a run that is to be gone on with.

    Raises:
        UsageError: It is not there.
    """
    if resume and not path.exists():
        raise UsageError(
            "there is no run to go on with",
            where=str(path),
            why="there is no such folder",
            remedy="mind the name, or leave out --resume to begin a run",
        )


def check_weights_elsewhere(path: Path, *inputs: Path | None) -> None:
    """Refuse to train a checkpoint that lies where the run is to keep its own files.

    Raises:
        UsageError: It does.
    """
    check_originals((path / name for name in (BEST, LAST, STATE, SETTINGS, SUMMARY, PLOT)), inputs)


def model_of(path: Path, name: str) -> str:
    """The model's name in the files that a run keeps: as it was begun with, from whichever folder it is gone on with.

    Args:
        path: The run's folder.
        name: The model's name by now.
    """
    header = (read_header(path / BEST) if (path / BEST).is_file() else None) or {}
    before = header.get("model")
    same = isinstance(before, str) and model_known_as(before) == model_known_as(name)
    return before if isinstance(before, str) and same else name


def rate_of(path: Path) -> float | None:
    """The learning rate of the run that a folder holds; None where none has begun."""
    if not (path / STATE).is_file():
        return None
    return float(as_state(path / STATE, read_header(path / STATE))["settings"]["config"]["lr"])


def as_state(path: Path, header: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The header of a run's state.

    Raises:
        InputRejectedError: It is none.
    """
    if header is None or header.get("stage") != STATE_STAGE:
        raise InputRejectedError("this is no state of a run", where=str(path))
    return header


def write_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    made = path.with_name(f".{path.name}.new")
    try:
        made.write_text(text, encoding="utf-8")
        made.replace(path)
    except OSError as error:
        why = error.strerror or str(error)
        raise ResourceError("a file of the run cannot be written", where=str(path), why=why) from error


def check_apart(path: Path, *images: str | None) -> None:
    """Refuse a run's folder inside a folder of images, of which it would become a part.

    Raises:
        UsageError: It is inside one.
    """
    for folder in images:
        if folder is not None and Path(folder).is_dir() and Path(folder).resolve() in path.resolve().parents:
            raise UsageError("the run's folder is among the images", where=str(path), remedy="choose another place")


def differing(before: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two documents, as sentences."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted({*before, *now})
        return [text for key in keys for text in differing(before.get(key), now.get(key), f"{name}.{key}".strip("."))]
    return [] if before == now else [f"{name} was {before!r} and is {now!r}"]
