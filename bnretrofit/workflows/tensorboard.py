"""A run's history -> TensorBoard's event files."""

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from bnretrofit.errors import ResourceError, UsageError
from bnretrofit.training import History

__all__ = ["TensorBoardLog"]

AXES = ("epoch", "step")


class TensorBoardLog:
    """Writes each epoch once, at its step; a run that is gone on with is told anew from its beginning.

    Nothing is written before the first epoch is: a run that is refused leaves what was there as it was.

    Args:
        folder: Where the event files go; it is made.

    Raises:
        UsageError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                "TensorBoard is not installed",
                remedy="leave out --tensorboard, or install it: python -m pip install tensorboard",
            ) from error
        self._folder = folder
        # A reader that is open passes over what it has read of the same steps.
        self._made: Callable[[], Any] = partial(SummaryWriter, str(folder), purge_step=0)
        self._writer: Any = None
        self._written = 0

    def write(self, history: History) -> None:
        """Write the epochs that are new.

        Raises:
            ResourceError: The folder cannot be written to.
        """
        try:
            if self._writer is None:
                # What an earlier process has written of this run is told again: readers go by the files' names, and the
                # second in them does not tell two files apart that were made within one.
                for path in self._folder.glob("events.out.tfevents.*"):
                    path.unlink()
                self._writer = self._made()
            for epoch in history.epochs[self._written :]:
                for name, value in dataclasses.asdict(epoch).items():
                    if name not in AXES and value is not None:
                        self._writer.add_scalar(name, value, epoch.step)
            self._writer.flush()
        except OSError as error:
            where = str(self._folder)
            raise ResourceError("TensorBoard's files cannot be written", where=where, why=str(error)) from error
        self._written = len(history.epochs)

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
