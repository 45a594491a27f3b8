"""Batches as workers made them -> batches as training takes them, as often as they are asked for."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, TypeVar

from bnretrofit.training_data.bad_images import BadImages
from bnretrofit.training_data.labelling import Labelling
from bnretrofit.training_data.loading import LoadedBatch
from bnretrofit.training_data.source import LabelledBatch

__all__ = ["CountedPass", "Pass", "delivered"]

T = TypeVar("T")


@dataclass(frozen=True)
class Pass(Generic[T]):
    """What can be gone over again.

    Attributes:
        begun: Begins to go over it.
    """

    begun: Callable[[], Iterator[T]]

    def __iter__(self) -> Iterator[T]:
        return self.begun()


@dataclass(frozen=True)
class CountedPass(Pass[T]):
    """What can be gone over again and is of a known length.

    Attributes:
        count: The length.
    """

    count: int

    def __len__(self) -> int:
        return self.count


def delivered(
    batches: Generator[LoadedBatch, None, None], bad_images: BadImages, labelling: Labelling, *, min_batch: int = 0
) -> Generator[LabelledBatch, None, None]:
    """Note what was left out, and label the rest; batches of which nothing is left do not come out.

    Args:
        batches: As workers made them; closed at the end, or with the iterator that is returned.
        bad_images: Where images that cannot be read are noted.
        labelling: The labels of classes.
        min_batch: How many images a batch holds at least.

    Raises:
        InputRejectedError: Too many images cannot be read, or too few of a batch can.
    """
    with closing(batches):
        for batch in batches:
            for bad in batch.bad:
                bad_images.note(bad)
            batch.check_size(min_batch)
            if len(batch.labels):
                yield batch.images, labelling(batch.labels)
