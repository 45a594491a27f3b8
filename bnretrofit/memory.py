"""When memory runs out: recognise it, say how much was needed, and run a batch in parts that fit."""

import gc
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bnretrofit.batches import Batch, sample_count, split
from bnretrofit.errors import ResourceError, SplitBatchWarning
from bnretrofit.moments import PassMoments

__all__ = ["Parts", "is_out_of_memory", "shortage_behind", "splits_noted"]

PHRASES = (
    "can't allocate memory",  # torch on Linux
    "not enough memory",  # and on Windows
    "out of memory",  # accelerators
    "alloc_failed",  # cuBLAS, cuDNN
    "bad_alloc",  # C++
    "out of shared memory",  # a process that decodes images
    "is killed by signal: killed",  # and one that the system chose to end
)
"""What those say, in lower case, that have no exception of their own for it."""

AMOUNT = re.compile(r"(?:tried|unable) to allocate ([\d.]+) ?(bytes|[kmgt]i?b)", re.IGNORECASE)

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the CPU or on an accelerator."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in PHRASES)


def shortage_behind(error: BaseException | None) -> ResourceError | None:
    """What to tell of an exception that memory running out has caused, at any remove; None for any other."""
    while error is not None:
        if is_out_of_memory(error):
            return ResourceError("memory ran out", why=_needed(error))
        error = error.__cause__
    return None


def _needed(error: BaseException) -> str:
    text = str(error).strip()
    found = AMOUNT.search(text)
    if found is None:
        return text.splitlines()[0] if text else f"a {type(error).__name__} that does not say how much was needed"
    amount, unit = float(found[1]), found[2]
    if unit.lower() != "bytes":
        return f"it tried to allocate {found[1]} {unit}"
    power = min(max(int(amount).bit_length() - 1, 0) // 10, len(UNITS) - 1)
    return f"it tried to allocate {amount / 1024**power:.{1 if power else 0}f} {UNITS[power]}"


class Parts:
    """Runs batches, in parts once a whole one has not fitted: the moments of samples do not depend on their batch.

    The size that fits is remembered, so that later batches are not tried whole in vain.
    """

    def __init__(self) -> None:
        self._most: int | None = None
        self._refused = 0

    def run(self, forward: Callable[[Batch], object], batch: Batch, moments: PassMoments) -> None:
        """Run a batch and commit the moments that are gathered on the way, each sample's once.

        Args:
            forward: Runs the model and stages moments.
            batch: The batch.
            moments: Where `forward` stages them.

        Raises:
            ResourceError: Not even one sample fits.
        """
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            size = sample_count(part)
            if self._most is not None and size > self._most and isinstance(part, Tensor):
                waiting += reversed(split(part, self._most))
                continue
            needed = _attempt(forward, part, moments)
            if needed is None:
                continue
            if not isinstance(part, Tensor):
                # Which of several tensors hold samples is not known: a table may be as long as the batch.
                raise ResourceError(
                    f"the model does not fit in memory with a batch of {size}",
                    why=needed,
                    remedy="pass smaller batches; only those of a single tensor are made smaller here",
                )
            if size <= 1:
                raise ResourceError(
                    "the model does not fit in memory with even one sample",
                    why=needed,
                    remedy="use smaller inputs, or a device or machine with more memory",
                )
            self._most, self._refused = (size + 1) // 2, max(size, self._refused)
            waiting.append(part)

    def tell(self) -> None:
        """Warn if batches were split."""
        if self._most is not None:
            text = (
                f"a batch of {self._refused} samples did not fit in memory, so batches were run in parts of at most "
                f"{self._most}; the statistics do not depend on it"
            )
            warnings.warn(text, SplitBatchWarning, stacklevel=3)


def _attempt(forward: Callable[[Batch], object], part: Batch, moments: PassMoments) -> str | None:
    """Run a part; returns None, or what was needed where it does not fit."""
    try:
        forward(part)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        needed = _needed(error)
    else:
        moments.commit()
        return None
    # Only here is the exception gone, and with it the frames that hold the activations; cycles may hold some of them.
    moments.discard()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return needed


@contextmanager
def splits_noted() -> Iterator[list[str]]:
    """Within this, `SplitBatchWarning`s become lines of the list that is given, complete at its end."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", SplitBatchWarning)
        yield notes
    for warning in told:
        if issubclass(warning.category, SplitBatchWarning):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
