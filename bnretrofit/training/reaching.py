"""Which parameters the logits depend on: no others learn anything, and ranks would wait for their gradients."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bnretrofit.batches import doubled
from bnretrofit.errors import InputRejectedError
from bnretrofit.training.logits import logits_of, output_on

__all__ = ["unreached"]


def unreached(model: nn.Module, images: Tensor, parameters: dict[str, Tensor], *, training: bool) -> tuple[str, ...]:
    """The parameters whose gradient is not even zero: an auxiliary head's, a layer's that is not run.

    Args:
        model: A classifier; it is left as it is.
        images: At least one.
        parameters: By name; those that require gradients.
        training: The mode. In training mode another pass may leave out other layers, where that is random.

    Returns:
        Their names; none where that mode does not run, which the first step will tell.

    Raises:
        InputRejectedError: It gives no logits in that mode.
    """
    with _as_it_was(model):
        model.train(training)
        try:
            output = output_on(model, doubled(images))
        except InputRejectedError:
            return ()
        logits = logits_of(output, f"{type(model).__name__} in {'training' if training else 'eval'} mode")
        try:
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
    devices = {each.device for each in (*model.parameters(), *model.buffers()) if each.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(0)
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
