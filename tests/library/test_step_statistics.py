"""What ranks tell each other of a step's statistics, also where they have not called the same norms."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch
from torch import Tensor, nn

from bnretrofit.training.step_statistics import pooled_statistics

CALLS = {0: {"a": 2, "b": 0, "wide": 1}, 1: {"a": 0, "b": 1, "wide": 1}}
"""How often each rank calls each norm in the first step."""


def gathering(ranks: int) -> Callable[[int], Callable[[Tensor], list[Tensor]]]:
    """For each rank what it tells the others by, each in a thread of its own."""
    told: list[Tensor | None] = [None] * ranks
    barrier = Barrier(ranks, timeout=30)

    def of(rank: int) -> Callable[[Tensor], list[Tensor]]:
        def gather(mine: Tensor) -> list[Tensor]:
            told[rank] = mine
            barrier.wait()
            found = [each for each in told if each is not None]
            barrier.wait()
            # As gloo would: it ends the process where lengths differ.
            assert len({each.shape for each in found}) == 1
            return found

        return gather

    return of


def norms_of_a_rank() -> dict[str, nn.Module]:
    return {"a": nn.BatchNorm1d(2), "b": nn.BatchNorm1d(2), "wide": nn.BatchNorm1d(5)}


def batch(rank: int, name: str, call: int) -> Tensor:
    torch.manual_seed(100 * rank + 10 * call + len(name))
    return torch.randn(16, 5 if name == "wide" else 2) + 5 - 10 * rank


def test_ranks_that_call_norms_unlike_come_to_the_same_statistics() -> None:
    gather_of, models = gathering(2), [norms_of_a_rank() for _ in CALLS]

    def work(rank: int) -> None:
        norms = models[rank]
        with pooled_statistics(norms, gather_of(rank)) as pool:
            for name, calls in CALLS[rank].items():
                for call in range(calls):
                    norms[name](batch(rank, name, call))
            pool()
            # A step in which nobody called any.
            pool()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, CALLS))
    for name, one in models[0].items():
        other = models[1][name]
        read = torch.cat(
            [batch(rank, name, call) for rank, calls in CALLS.items() for call in range(calls[name])]
        ).double()
        for norm in (one, other):
            # Running statistics begin at 0 and 1 and move by the momentum, 0.1; one rounding to float32 is all between.
            torch.testing.assert_close(norm.running_mean, (0.1 * read.mean(0)).float(), rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(norm.running_var, (0.9 + 0.1 * read.var(0)).float(), rtol=1e-6, atol=1e-6)
            assert norm.num_batches_tracked == sum(calls[name] for calls in CALLS.values())
