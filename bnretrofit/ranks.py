"""Moments that each rank has measured on its share of the samples -> those of all samples, on every rank."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from bnretrofit.errors import InputRejectedError, RetrofitError, UsageError
from bnretrofit.memory import shortage_behind
from bnretrofit.moments import PassMoments

__all__ = ["measured_together"]

if dist.is_available():
    # torch.export imports it with its first call. Imported where there already is a process group, its functions take
    # that for their default argument and hold it for ever: destroy_process_group then does not end the group's threads,
    # and the end of the interpreter now and then aborts on them.
    import torch.distributed.nn.functional  # noqa: F401


@dataclass(frozen=True, slots=True)
class _Failure:
    """What another rank is told: exceptions of others may not survive being sent."""

    kind: type[RetrofitError]
    said: str

    @classmethod
    def of(cls, error: Exception) -> "_Failure":
        told = shortage_behind(error) or error
        kind = type(told) if isinstance(told, RetrofitError) else InputRejectedError
        return cls(kind, f"{type(told).__name__}: {told}")


def measured_together(measure: Callable[[], PassMoments]) -> PassMoments:
    """Measure on this rank, and join what all ranks of the default process group have measured.

    Args:
        measure: Goes over this rank's share.

    Returns:
        The same on every rank, and what one rank finds that goes over all samples.

    Raises:
        UsageError: There is no process group.
        RetrofitError: Another rank has failed, for which the others would wait forever: of the same kind as there, an
            InputRejectedError where that was none of this package's.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise UsageError(
            "there are no ranks to join the statistics of",
            why="torch.distributed has no process group",
            remedy="call torch.distributed.init_process_group first, or leave out across_ranks",
        )
    failure: Exception | None = None
    mine = PassMoments()
    try:
        mine = measure()
    except Exception as error:  # noqa: BLE001 - raised again below, once the other ranks know of it
        failure = error
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, mine if failure is None else _Failure.of(failure))
    if failure is not None:
        raise failure
    for rank, found in enumerate(told):
        if isinstance(found, _Failure):
            raise found.kind(f"rank {rank} could not measure its share", why=found.said)
    together = PassMoments()
    # In the order of the ranks, so that all come to the same bits.
    for found in told:
        together.merge(found)
    return together
