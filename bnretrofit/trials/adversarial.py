"""The worst input that a few steps uphill find: where two models part most, if they part at all."""

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from bnretrofit.batches import Batch, dtype_of
from bnretrofit.trials.running import Models, call, input_for

__all__ = ["worst_inputs"]

STEP = 0.25
"""Of the inputs' own standard deviation, for every element, as the sign of the gradient says (Goodfellow et al. 2015,
arXiv:1412.6572)."""


def worst_inputs(models: Models, start: Batch, steps: int) -> Batch | None:
    """Climb the gradient of the squared difference of outputs, from where the user's inputs are.

    Args:
        models: Both in eval mode.
        start: Floating-point inputs.
        steps: How many.

    Returns:
        For every sample the input with the largest difference, relative to the outputs, that was seen; None where
        the outputs have no difference that could be climbed.

    Raises:
        InputRejectedError: A model does not take the inputs.
    """
    tensors, layout = tree_flatten(start)
    best, highest = tensors, None
    for _ in range(steps + 1):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        with torch.enable_grad():
            error = _error_per_sample(models, leaves, layout)
        if error is None:
            return None
        found = error.detach()
        better = torch.ones_like(found, dtype=torch.bool) if highest is None else found > highest
        best = [_rows(better, new, old) for new, old in zip(tensors, best, strict=True)]
        highest = found if highest is None else torch.maximum(found, highest)
        if not error.requires_grad:
            break
        gradients = torch.autograd.grad(error.sum(), leaves, allow_unused=True)
        tensors = [_stepped(leaf, gradient) for leaf, gradient in zip(leaves, gradients, strict=True)]
    return tree_unflatten(best, layout)


def _error_per_sample(models: Models, leaves: list[Tensor], layout: TreeSpec) -> Tensor | None:
    """(N,): the outputs' squared difference relative to the first model's own square; None if it cannot be told."""
    inputs = tree_unflatten(leaves, layout)
    first, second = (call(model, _own(model, inputs)) for model in models)
    pairs = [
        (a.flatten(1).float(), b.to(a.device).flatten(1).float())
        for a, b in zip(first, second, strict=False)
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and _can_be_climbed(a)
    ]
    if not pairs or len(first) != len(second):
        return None
    shares = [
        (a - b).square().sum(1) / a.detach().square().sum(1).clamp_min(torch.finfo(a.dtype).tiny) for a, b in pairs
    ]
    return torch.stack(shares).sum(0)


def _can_be_climbed(output: Tensor) -> bool:
    return output.is_floating_point() and output.dim() > 1


def _own(model: nn.Module, inputs: Batch) -> Batch:
    return input_for(model, inputs, dtype_of(model))


def _stepped(tensor: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return tensor.detach()
    return (tensor + STEP * tensor.std(correction=0) * gradient.sign()).detach()


def _rows(better: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new samples where they are better, the old ones elsewhere."""
    return torch.where(better.to(new.device).view(-1, *[1] * (new.dim() - 1)), new, old)
