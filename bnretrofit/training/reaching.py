"""Which parameters the logits depend on: no others can be trained, and ranks would wait for their gradients."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bnretrofit.batches import doubled
from bnretrofit.training.targets import logits_of

__all__ = ["unreached"]


def unreached(model: nn.Module, images: Tensor, parameters: dict[str, Tensor]) -> tuple[str, ...]:
    """The parameters whose gradient is not even zero in training mode: an auxiliary head's, a layer's that is not run.

    Args:
        model: A classifier; it is left as it is.
        images: At least one.
        parameters: By name; those that require gradients.

    Returns:
        Their names; none where training mode does not run, which the first step will tell.
    """
    with _as_it_was(model):
        model.train()
        try:
            logits = logits_of(model(doubled(images)), type(model).__name__)
            found: tuple[Tensor | None, ...] = torch.autograd.grad(
                logits.sum(), list(parameters.values()), allow_unused=True
            )
        except (RuntimeError, ValueError):
            return ()
    return tuple(name for name, gradient in zip(parameters, found, strict=True) if gradient is None)


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Put modes, buffers and what dropout draws from back in the end."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {buffer.device for buffer in (*model.parameters(), *model.buffers()) if buffer.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
