"""A run that is kept in memory, for callers of the library who need no files."""

from dataclasses import dataclass, field

from torch import Tensor

from bnretrofit.training.history import Epoch
from bnretrofit.training.protocols import Weights
from bnretrofit.training.saving import SavedRun

__all__ = ["MemoryKeeper"]


@dataclass(slots=True)
class MemoryKeeper:
    """See `protocols.Keeper`; all that is kept ends with the process."""

    state: SavedRun | None = None
    kept: dict[str, Weights] = field(default_factory=dict)

    def load(self) -> SavedRun | None:
        """The state that was saved last."""
        return self.state

    def is_due(self, step: int) -> bool:  # noqa: ARG002
        """Never in the midst of an epoch: nothing of it would outlive the process."""
        return False

    def save(self, run: SavedRun) -> None:
        """Keep a state."""
        self.state = run

    def weights(self, name: str) -> Weights | None:
        """The weights kept under a name."""
        return self.kept.get(name)

    def keep(self, name: str, tensors: dict[str, Tensor], epoch: Epoch, *, measured: bool) -> None:
        """Keep weights under a name."""
        copied = {key: each.detach().cpu().clone() for key, each in tensors.items()}
        self.kept[name] = Weights(copied, epoch.epoch, measured)
