"""A caller's own loaders -> a training set."""

import itertools
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass

from bnretrofit.errors import UsageError
from bnretrofit.training.protocols import Labelled

__all__ = ["LoaderSet"]


@dataclass(frozen=True, slots=True)
class LoaderSet:
    """See `protocols.TrainingSet`. Order of the images and share of each rank are the loaders' own.

    Attributes:
        loader: Gives (images, labels) each time it is gone through, such as a DataLoader.
        labelled: The same for validation; None without.
    """

    loader: Iterable[Labelled]
    labelled: Iterable[Labelled] | None

    def batches_per_epoch(self, ranks: int = 1, accumulate: int = 1) -> int | None:  # noqa: ARG002
        """Steps of an epoch; None for a loader without a length."""
        return len(self.loader) // accumulate if isinstance(self.loader, Sized) else None

    def train(
        self,
        epoch: int,
        *,
        start: int = 0,
        rank: int = 0,  # noqa: ARG002
        ranks: int = 1,  # noqa: ARG002
        accumulate: int = 1,
    ) -> Iterator[Labelled]:
        """The loader's batches; those before step `start` are gone through and dropped.

        Raises:
            UsageError: The loader can be gone through once only.
        """
        if iter(self.loader) is self.loader:
            raise UsageError("the training set can be gone through once only", remedy="give a DataLoader or a list")
        # A DistributedSampler is told the epoch as its documentation asks for.
        set_epoch = getattr(getattr(self.loader, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        yield from itertools.islice(self.loader, start * accumulate, None)

    def validation(self, rank: int = 0, ranks: int = 1) -> Iterable[Labelled] | None:
        """Every so-manieth of the validation batches."""
        return None if self.labelled is None else itertools.islice(self.labelled, rank, None, ranks)
