"""A run's history -> TensorBoard's event files."""

import dataclasses
from pathlib import Path
from typing import Any

from bnretrofit.errors import ResourceError, UsageError
from bnretrofit.training import History

__all__ = ["TensorBoardLog"]

AXES = ("epoch", "step")


class TensorBoardLog:
    """Writes each epoch once, at its step; a run that is gone on with is told anew from its beginning.

    Args:
        folder: Where the event files go; it is made.

    Raises:
        UsageError: TensorBoard is not installed.
        ResourceError: The folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                "TensorBoard is not installed",
                remedy="python -m pip install tensorboard, or leave out --tensorboard",
            ) from error
        try:
            # What an earlier process has written of this run from step 0 on, the reader then passes over.
            self._writer: Any = SummaryWriter(str(folder), purge_step=0)
        except OSError as error:
            raise ResourceError("TensorBoard's files cannot be written", where=str(folder), why=str(error)) from error
        self._written = 0

    def write(self, history: History) -> None:
        """Write the epochs that are new."""
        for epoch in history.epochs[self._written :]:
            for name, value in dataclasses.asdict(epoch).items():
                if name not in AXES and value is not None:
                    self._writer.add_scalar(name, value, epoch.step)
        self._written = len(history.epochs)
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()
