"""The running statistics of a step that is made of several batches: of all of them together, on whatever ranks.

Each norm leaves a batch's own statistics in its running tensors (momentum 1). After the step these are pooled, exactly
up to one rounding, and the pooled ones move the running statistics by the momentum that was meant. So two ranks come to
what one rank comes to that goes over the same batches one after the other.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.moments import Moments

__all__ = ["StepStatistics", "pooled_statistics"]

Gather = Callable[[Tensor], list[Tensor]]
"""A tensor of this rank -> those of all ranks, in their order."""

DEFAULT_MOMENTUM = 0.1


class StepStatistics:
    """What the norms have seen since the last step.

    Args:
        norms: BatchNorms that track running statistics, by name.
        gather: How ranks tell each other.
    """

    def __init__(self, norms: dict[str, nn.Module], gather: Gather) -> None:
        self._norms: dict[str, Any] = {**norms}
        self._gather = gather
        self._momenta: dict[str, float | None] = {name: norm.momentum for name, norm in self._norms.items()}
        self._running: dict[str, tuple[Tensor, Tensor]] = {
            name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in self._norms.items()
        }
        self._seen: dict[str, list[Tensor]] = {name: [] for name in norms}
        self._handles = [
            norm.register_forward_hook(self._collector(name), with_kwargs=True) for name, norm in norms.items()
        ]
        for norm in self._norms.values():
            norm.momentum = 1.0

    def step(self) -> None:
        """Pool what all batches of the step have left on all ranks, and move the running statistics."""
        everybody = self._everybody()
        for number, (name, norm) in enumerate(self._norms.items()):
            self._move(name, norm, torch.cat([rank[number] for rank in everybody]))
            self._seen[name].clear()

    def close(self) -> None:
        """Give the norms back their momentum, and the running statistics where no step has ended."""
        for handle in self._handles:
            handle.remove()
        for name, norm in self._norms.items():
            norm.momentum = self._momenta[name]
            norm.running_mean.copy_(self._running[name][0])
            norm.running_var.copy_(self._running[name][1])

    def _collector(self, name: str) -> Callable[[Any, Any, Any, Any], None]:
        def collect(norm: Any, inputs: Any, named: Any, _output: Any) -> None:
            if norm.training:
                count = [*inputs, *named.values()][0].numel() // norm.num_features
                counted = torch.tensor([count], dtype=torch.float64, device=norm.running_mean.device)
                self._seen[name].append(torch.cat([counted, norm.running_mean.double(), norm.running_var.double()]))

        return collect

    def _everybody(self) -> list[list[Tensor]]:
        """For each rank what each norm has seen, (calls, 1 + C + C).

        A rank may have called a norm more often than another one has: some networks skip blocks at random.
        """
        widths = [2 * norm.num_features + 1 for norm in self._norms.values()]
        device = next(iter(self._norms.values())).running_mean.device
        calls = self._gather(torch.tensor([len(parts) for parts in self._seen.values()], device=device))
        lengths = [[count * width for count, width in zip(rank.tolist(), widths, strict=True)] for rank in calls]
        seen = [part for parts in self._seen.values() for part in parts]
        # All ranks tell each other tensors of one length.
        mine = torch.zeros(max(map(sum, lengths)), dtype=torch.float64, device=device)
        if seen:
            together = torch.cat(seen)
            mine[: len(together)] = together
        parts = (rank[: sum(of_rank)].split(of_rank) for rank, of_rank in zip(self._gather(mine), lengths, strict=True))
        return [[part.view(-1, width) for part, width in zip(rank, widths, strict=True)] for rank in parts]

    def _move(self, name: str, norm: Any, rows: Tensor) -> None:
        mean, var = self._running[name]
        if len(rows):
            found = _pooled(rows.cpu())
            momentum = self._momenta[name]
            # Those of other ranks count, too: two ranks leave what one leaves that goes over the batches of both.
            norm.num_batches_tracked += len(rows) - len(self._seen[name])
            # Without a momentum all batches count alike: these are so many of those so far.
            share = len(rows) / max(int(norm.num_batches_tracked), 1)
            weight = share if momentum is None else momentum
            mean.lerp_(found[0].to(mean), weight)
            var.lerp_(found[1].to(var), weight)
        # Whoever looks at the model between two steps sees what it has learnt so far.
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)


def _pooled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(batches, 1 + C + C) of count, mean and unbiased variance -> mean and unbiased variance of all."""
    channels = rows.shape[1] // 2
    moments = Moments(channels)
    for row in rows:
        count, mean, unbiased = int(row[0]), row[1 : channels + 1], row[channels + 1 :]
        moments.add_samples(count, mean[None], unbiased[None] * ((count - 1) / count))
    stats = moments.stats()
    return stats.mean, stats.unbiased_var


@contextmanager
def pooled_statistics(norms: dict[str, nn.Module], gather: Gather) -> Iterator[Callable[[], None]]:
    """While it lasts, running statistics move once a step: call what this gives after each."""
    if not norms:
        yield lambda: None
        return
    statistics = StepStatistics(norms, gather)
    try:
        yield statistics.step
    finally:
        statistics.close()
