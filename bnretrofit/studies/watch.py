"""What is measured while a network learns: what all such measurements share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bnretrofit.studies.images import Images, Labelled

__all__ = ["PROBES", "Watch", "as_it_was"]

PROBES = 40
"""How often in a run something is measured."""


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


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
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
