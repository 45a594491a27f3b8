"""norms in their places + batches -> norms with the statistics of what arrives at them, however far off they were.

Each norm changes what the later ones read. As a batch flows, every norm it comes to takes over the statistics of what
arrives (as in data-dependent initialisation, Mishkin and Matas 2015, https://arxiv.org/abs/1511.06422), and normalises
with them at once, so that nothing overflows or vanishes further down. One batch is final after one sweep. Of several,
each keeps its share in every norm until the next sweep brings a new one: after k sweeps the first k norms are final,
and often all are long before.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bnretrofit.batches import Batch, as_call, device_of, map_tensors, sample_count
from bnretrofit.memory import is_out_of_memory
from bnretrofit.moments import ChannelStats, Moments
from bnretrofit.norm_statistics import SETTLED, Batches, held_statistics, moved, set_statistics
from bnretrofit.norms import ChannelsLastBatchNorm1d
from bnretrofit.sample_moments import sample_moments

__all__ = ["settle"]

JOINED_BYTES = 2 << 30
"""Batches are joined up to about that much memory: the fewer there are, the fewer sweeps it takes."""

ALIVE = 4
"""Activations of the size of the largest that are in memory at a time: a layer's input and output, the norm's, and what
the activation makes of it."""


MORE_SWEEPS = 20
"""Beyond one for each norm: one that is called more than once depends on itself, and settles as a series does."""


def settle(model: nn.Module, norms: Mapping[str, nn.Module], batches: Batches, first: Batch, title: str) -> None:
    """Give norms the statistics of what they read, all of them normalising as in eval mode.

    Args:
        model: In eval mode, without gradients; its norms are changed.
        norms: Those of its norms that are to settle, by module name.
        batches: To be gone through several times; a progress bar goes to stderr.
        first: The first of them.
        title: Of the bar.

    Raises:
        InputRejectedError: A norm's statistics cannot be measured.
    """
    most = _samples_that_fit(model, norms, first)
    if not _fits(partial(_sweep_until_settled, model, norms, partial(_joined, batches, most), title)):
        _sweep_until_settled(model, norms, partial(_joined, batches, 1), title)


def _samples_that_fit(model: nn.Module, norms: Mapping[str, nn.Module], batch: Batch) -> int:
    """How many samples' activations `JOINED_BYTES` hold; 1 for batches that are not single tensors."""
    if not isinstance(batch, Tensor) or not batch.dim() or not len(batch):
        return 1
    sizes = [batch[:1].nbytes]

    def measure(_norm: nn.Module, inputs: Any, named: Any) -> None:
        sizes.extend(value.nbytes for value in [*inputs, *named.values()][:1])

    _run(model, batch[:1], norms, lambda _: measure)
    return max(JOINED_BYTES // (ALIVE * max(sizes)), 1)


def _fits(work: Callable[[], None]) -> bool:
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _joined(batches: Batches, most: int, title: str) -> Iterator[Batch]:
    """The batches, those that fit together as one; none is split."""
    pending: list[Tensor] = []
    for batch in tqdm(batches, desc=title, unit="batch", delay=1.0, leave=False):
        apart = not isinstance(batch, Tensor) or (pending and batch.shape[1:] != pending[0].shape[1:])
        if pending and (apart or sum(map(len, pending)) + sample_count(batch) > most):
            yield torch.cat(pending)
            pending = []
        if isinstance(batch, Tensor):
            pending.append(batch)
        else:
            yield batch
    if pending:
        yield torch.cat(pending)


class _Shares:
    """What each batch has brought to each norm, from this sweep or the last."""

    def __init__(self, norms: Mapping[str, nn.Module]) -> None:
        self._norms = norms
        self._shares: dict[str, dict[tuple[int, int], Moments]] = {name: {} for name in norms}
        self._calls: dict[str, int] = {}
        self._batch = 0

    def begin(self, batch: int) -> None:
        """From now on, what arrives belongs to that batch."""
        self._batch, self._calls = batch, dict.fromkeys(self._norms, 0)

    def hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        """A forward pre-hook by which a norm takes over what arrives, with the other batches' shares."""

        def take(norm: nn.Module, inputs: Any, named: Any) -> None:
            read: Tensor = [*inputs, *named.values()][0]
            count, mean, var = sample_moments(read, -1 if isinstance(norm, ChannelsLastBatchNorm1d) else 1)
            share = Moments(mean.shape[1])
            share.add_samples(count, mean, var)
            self._shares[name][self._batch, self._calls[name]] = share
            self._calls[name] += 1
            stats = self.stats(name)
            if stats.count > 1:
                set_statistics(name, norm, stats)

        return take

    def stats(self, name: str) -> ChannelStats:
        """The statistics of all shares of a norm."""
        first, *others = self._shares[name].values()
        together = Moments(len(first.total[0]))
        for found in (first, *others):
            together.merge(found)
        return together.stats()

    def refuse_few(self) -> None:
        """Refuse a norm that something passed through, and not enough of it.

        Raises:
            InputRejectedError: It has one value per channel.
        """
        for name, norm in self._norms.items():
            if self._shares[name]:
                set_statistics(name, norm, self.stats(name))

    @property
    def single(self) -> bool:
        """Whether no norm has more than one share, so that each was final when it came."""
        return all(len(found) <= 1 for found in self._shares.values())


def _sweep_until_settled(
    model: nn.Module, norms: Mapping[str, nn.Module], batches: Callable[[str], Iterator[Batch]], title: str
) -> None:
    shares = _Shares(norms)
    for sweep in range(1, len(norms) + MORE_SWEEPS + 1):
        before = {name: held_statistics(norm) for name, norm in norms.items()}
        for number, batch in enumerate(batches(f"{title}, sweep {sweep}")):
            shares.begin(number)
            _run(model, batch, norms, shares.hook)
        shares.refuse_few()
        moves = (moved(before[name], held_statistics(norm)) for name, norm in norms.items())
        if shares.single or max(moves, default=0.0) <= SETTLED:
            break


def _run(
    model: nn.Module,
    batch: Batch,
    norms: Mapping[str, nn.Module],
    hook: Callable[[str], Callable[[nn.Module, Any, Any], None]],
) -> None:
    handles = [norm.register_forward_pre_hook(hook(name), with_kwargs=True) for name, norm in norms.items()]
    args, kwargs = as_call(map_tensors(lambda tensor: tensor.to(device_of(model), copy=True), batch))
    try:
        model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
