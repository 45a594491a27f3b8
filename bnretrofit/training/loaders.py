"""A caller's own loaders -> a training set."""

import itertools
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass

from bnretrofit.errors import UsageError
from bnretrofit.training.protocols import Labelled
from bnretrofit.training_data.passes import Pass

__all__ = ["LoaderSet"]


@dataclass(frozen=True, slots=True)
class LoaderSet:
    """See `protocols.TrainingSet`. Order of the images and share of each rank are the loaders' own.

    Attributes:
        loader: Gives (images, labels) each time it is gone through, such as a DataLoader.
        labelled: The same for validation; None without.

    Raises:
        UsageError: One of them can be gone through once only.
    """

    loader: Iterable[Labelled]
    labelled: Iterable[Labelled] | None

    def __post_init__(self) -> None:
        for name, loader in (("training", self.loader), ("validation", self.labelled)):
            # Not by iter(loader), which would start a DataLoader's workers.
            if isinstance(loader, Iterator):
                remedy = "give a DataLoader or a list"
                raise UsageError(f"the {name} set can be gone through once only", remedy=remedy)

    def batches_per_epoch(self, ranks: int = 1, accumulate: int = 1) -> int | None:  # noqa: ARG002
        """Steps of an epoch; None for a loader without a length."""
        try:
            return len(self.loader) // accumulate if isinstance(self.loader, Sized) else None
        except TypeError:
            # A DataLoader has a length by its class, and none where its data set has none.
            return None

    def train(
        self,
        epoch: int,
        *,
        start: int = 0,
        rank: int = 0,  # noqa: ARG002
        ranks: int = 1,  # noqa: ARG002
        accumulate: int = 1,
    ) -> Iterator[Labelled]:
        """The loader's batches; those before step `start` are gone through and dropped."""
        # A DistributedSampler is told the epoch as its documentation asks for.
        set_epoch = getattr(getattr(self.loader, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        yield from itertools.islice(self.loader, start * accumulate, None)

    def validation(self, rank: int = 0, ranks: int = 1) -> Iterable[Labelled] | None:
        """Every so-manieth of the validation batches.

        Raises:
            UsageError: The loader shares them out by itself, and each rank would get a share of its share.
        """
        labelled = self.labelled
        if labelled is None:
            return None
        if ranks > 1 and _is_shared_out(labelled):
            raise UsageError(
                "the validation set is shared out to the processes twice",
                why="its loader gives each a part of it, and so does the evaluation",
                remedy="give a loader without a DistributedSampler, which gives all of it to each process",
            )
        return Pass(lambda: itertools.islice(labelled, rank, None, ranks))


def _is_shared_out(loader: object) -> bool:
    """Whether each process gets a part: by torch's DistributedSampler, or by accelerate's samplers."""
    batches = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    return any(getattr(each, name, 1) > 1 for each in samplers for name in ("num_replicas", "num_processes"))
