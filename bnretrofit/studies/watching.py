"""What is measured while a network learns: what its layers read, and how loss and gradient vary along a step."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnretrofit.norms import running_norms
from bnretrofit.recalibration import recalibrate
from bnretrofit.studies.images import Images, Labelled, batches_of, some_of
from bnretrofit.studies.networks import weighted
from bnretrofit.studies.shifting import SHIFTS, shifted
from bnretrofit.training.evaluation import evaluate

__all__ = ["Watch", "watch_for"]

PROBES = 40
"""How often in a run what layers read, or the way of a step, is measured."""

PROBE_IMAGES = 128

UNLABELLED = 256
"""Shifted images whose statistics are measured."""

STRIDES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""How far along the gradient loss and gradient are looked at, in learning rates."""


class Watch:
    """Watches nothing.

    Args:
        model: The network that learns.
        images: What it learns from.
    """

    def __init__(self, model: nn.Module, images: Images) -> None:
        self.model, self.images = model, images
        self.values: dict[str, list[float]] = {}

    def before(self, step: int, steps: int, micros: list[Labelled], optimizer: Any) -> None:
        """Called when the gradient of a step is there and the step is not made yet."""

    def end(self) -> None:
        """Called when the network has learnt."""

    def note(self, name: str, value: float) -> None:
        """Keep a figure."""
        self.values.setdefault(name, []).append(value)

    def found(self) -> dict[str, tuple[float, ...]]:
        """What was measured."""
        return {name: tuple(values) for name, values in self.values.items()}


def watch_for(name: str, model: nn.Module, images: Images) -> Watch:
    """The watch of that name, see `recipes.WATCHES`."""
    kinds = {"": Watch, "inputs": _Inputs, "landscape": _Landscape, "shifted images": _Shifted}
    return kinds[name](model, images)


class _Inputs(Watch):
    """How far mean and variance of what each layer reads move from one probe to the next, in training mode.

    Of each channel, the mean's move over the standard deviation before it, and the logarithm of the ratio of standard
    deviations; their median over the channels that were not constant before, infinite where all were.
    """

    def __init__(self, model: nn.Module, images: Images) -> None:
        super().__init__(model, images)
        self._last: list[tuple[Tensor, Tensor]] | None = None

    def before(self, step: int, steps: int, micros: list[Labelled], optimizer: Any) -> None:
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
            with torch.no_grad(), _as_it_was(self.model):
                self.model.train()
                self.model(some_of(self.images.train, PROBE_IMAGES)[0])
        finally:
            for handle in handles:
                handle.remove()
        return read


class _Landscape(Watch):
    """How far loss and gradient vary along a step (Santurkar et al. 2018, https://arxiv.org/abs/1805.11604).

    At points of a quarter to four learning rates along the gradient: the range of the loss, and the largest move of the
    gradient over the gradient; infinite where either overflows.
    """

    def before(self, step: int, steps: int, micros: list[Labelled], optimizer: Any) -> None:
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
        with _as_it_was(self.model):
            self.model.train()
            images = sum(len(labels) for _, labels in micros)
            losses = [
                functional.cross_entropy(self.model(pixels), labels) * (len(labels) / images)
                for pixels, labels in micros
            ]
            loss = torch.stack(losses).sum()
            return float(loss.detach()), torch.autograd.grad(loss, held)


class _Shifted(Watch):
    """Accuracy on images that are brighter, blurred or noisy, and with statistics measured on them, without labels."""

    def end(self) -> None:
        for name in SHIFTS:
            moved = shifted(name, self.images)
            self.note(name, evaluate(self.model, batches_of(moved), quiet=True).top1)
            if running_norms(self.model):
                measured = recalibrate(self.model, [some_of(moved, UNLABELLED)[0]])
                self.note(name, evaluate(measured.model, batches_of(moved), quiet=True).top1)


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Give running statistics and modes back afterwards."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes = {module: module.training for module in model.modules()}
    random = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(random)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for module, training in modes.items():
            module.training = training


def _median(moves: Tensor) -> float:
    return float(moves.abs().median()) if len(moves) else math.inf


def _distance(a: Any, b: list[Tensor]) -> float:
    """Of two gradients, over the norm of the second; infinite where that is nought, as nothing can be told then."""
    apart = sum(float((x.double() - y.double()).square().sum()) for x, y in zip(a, b, strict=True))
    size = sum(float(y.double().square().sum()) for y in b)
    return math.sqrt(apart / size) if size else math.inf


def _largest(values: list[float]) -> float:
    """Infinite if any of them is not finite: max() passes over a NaN that is not the first."""
    return max(values) if all(map(math.isfinite, values)) else math.inf
