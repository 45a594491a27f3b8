"""The classes of a data set -> the outputs of a network."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnretrofit.errors import UsageError

__all__ = ["Labelling"]


@dataclass(frozen=True, slots=True)
class Labelling:
    """Which output each class is.

    Attributes:
        outputs: Of each class, (classes,), int64; None where class i is output i.
    """

    outputs: Tensor | None = None

    @classmethod
    def of(cls, outputs: Sequence[int], classes: tuple[str, ...]) -> "Labelling":
        """A mapping that was chosen.

        Raises:
            UsageError: There are not as many outputs as classes.
        """
        if len(outputs) != len(classes):
            raise UsageError(
                "every class needs the number of an output", why=f"{len(outputs)} for {len(classes)} classes"
            )
        return cls(torch.tensor(tuple(outputs), dtype=torch.int64))

    def __call__(self, labels: Tensor) -> Tensor:
        """The output of each label, (N,), int64."""
        return labels if self.outputs is None else self.outputs[labels]
