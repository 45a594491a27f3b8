"""How loss and gradient vary along the steps of a network that learns."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnretrofit.studies.images import Labelled
from bnretrofit.studies.watch import PROBES, Watch, as_it_was

__all__ = ["WatchedLandscape"]

STRIDES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""How far along the gradient loss and gradient are looked at, in learning rates."""


class WatchedLandscape(Watch):
    """How far loss and gradient vary along a step (Santurkar et al. 2018, https://arxiv.org/abs/1805.11604).

    At points of a quarter to four learning rates along the gradient: the range of the loss, and the largest move of the
    gradient over the gradient; infinite where either overflows.
    """

    def before(self, step: int, steps: int, micros: list[Labelled], optimizer: Any) -> None:
        """Go along the gradient and back, where it is time to."""
        if step % max(1, steps // PROBES):
            return
        rate = optimizer.param_groups[0]["lr"]
        held = [each for each in self.model.parameters() if each.grad is not None]
        start, gradient = [each.detach().clone() for each in held], [each.grad.clone() for each in held]  # type: ignore[union-attr]
        losses, moves = [], []
        try:
            losses.append(self._at(micros, held)[0])
            for stride in STRIDES:
                with torch.no_grad():
                    for each, at, along in zip(held, start, gradient, strict=True):
                        each.copy_(at - stride * rate * along)
                loss, there = self._at(micros, held)
                losses.append(loss)
                moves.append(_distance(there, gradient))
        finally:
            with torch.no_grad():
                for each, at, along in zip(held, start, gradient, strict=True):
                    each.copy_(at)
                    each.grad = along
        self.note("step", step)
        self.note("loss", _largest([abs(a - b) for a in losses for b in losses]))
        self.note("gradient", _largest(moves))

    def _at(self, micros: list[Labelled], held: list[nn.Parameter]) -> tuple[float, tuple[Tensor, ...]]:
        """Loss and gradient where the parameters are."""
        with as_it_was(self.model):
            self.model.train()
            images = sum(len(labels) for _, labels in micros)
            losses = [
                functional.cross_entropy(self.model(pixels), labels) * (len(labels) / images)
                for pixels, labels in micros
            ]
            loss = torch.stack(losses).sum()
            return float(loss.detach()), torch.autograd.grad(loss, held)


def _distance(a: Any, b: list[Tensor]) -> float:
    """Of two gradients, over the norm of the second; infinite where that is nought, as nothing can be told then."""
    apart = sum(float((x.double() - y.double()).square().sum()) for x, y in zip(a, b, strict=True))
    size = sum(float(y.double().square().sum()) for y in b)
    return math.sqrt(apart / size) if size else math.inf


def _largest(values: list[float]) -> float:
    """Infinite if any of them is not finite: max() passes over a NaN that is not the first."""
    return max(values) if all(map(math.isfinite, values)) else math.inf
