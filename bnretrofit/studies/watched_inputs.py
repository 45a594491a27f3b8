"""How what layers read moves while a network learns."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.studies.images import Images, Labelled, some_of
from bnretrofit.studies.networks import weighted
from bnretrofit.studies.watch import PROBES, Watch, as_it_was

__all__ = ["WatchedInputs"]

PROBE_IMAGES = 128


class WatchedInputs(Watch):
    """How far mean and variance of what each layer reads move from one probe to the next, in training mode.

    Of each channel, the mean's move over the standard deviation before it, and the logarithm of the ratio of standard
    deviations; their median over the channels that were not constant before, infinite where all were.
    """

    def __init__(self, model: nn.Module, images: Images) -> None:
        super().__init__(model, images)
        self._last: list[tuple[Tensor, Tensor]] | None = None

    def before(self, step: int, steps: int, micros: list[Labelled], optimizer: Any) -> None:
        """Show the images, where it is time to."""
        del micros, optimizer
        if step % max(1, steps // PROBES):
            return
        now = self._read()
        if self._last is not None:
            self.note("step", step)
            for number, (before, after) in enumerate(zip(self._last, now, strict=True)):
                alive = before[1] > 0
                self.note(f"mean {number}", _median(((after[0] - before[0]) / before[1])[alive]))
                self.note(f"spread {number}", _median((after[1] / before[1])[alive].log()))
        self._last = now

    def _read(self) -> list[tuple[Tensor, Tensor]]:
        read: list[tuple[Tensor, Tensor]] = []

        def note(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].detach().double().flatten(2) if inputs[0].dim() > 2 else inputs[0].detach().double()
            dims = (0, 2) if values.dim() == 3 else (0,)
            read.append((values.mean(dims), values.std(dims, unbiased=False)))

        # The first layer reads the images, which do not move.
        handles = [layer.register_forward_pre_hook(note) for layer in weighted(self.model)[1:]]
        try:
            with torch.no_grad(), as_it_was(self.model):
                self.model.train()
                self.model(some_of(self.images.train, PROBE_IMAGES)[0])
        finally:
            for handle in handles:
                handle.remove()
        return read


def _median(moves: Tensor) -> float:
    return float(moves.abs().median()) if len(moves) else math.inf
