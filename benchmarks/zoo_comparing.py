"""How answers, tensors and networks of the zoo are compared."""

import math

import torch
from torch import Tensor, nn

__all__ = ["equal_answers", "error_of", "figure", "fingerprint", "state_difference"]


def error_of(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest difference over the largest value, of the tensor where that is most; infinite where shapes differ."""
    if [answer.shape for answer in found] != [answer.shape for answer in wanted]:
        return math.inf
    worst = 0.0
    for mine, other in zip(found, wanted, strict=True):
        if mine.numel():
            difference = float((mine.double() - other.double()).abs().max())
            worst = max(worst, difference / max(float(other.double().abs().max()), torch.finfo(torch.double).tiny))
            if math.isnan(difference):
                return math.nan
    return worst


def equal_answers(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(mine, other) for mine, other in zip(a, b, strict=True))


def state_difference(a: nn.Module, b: nn.Module) -> str | None:
    """Where two state_dicts differ, as a sentence; None if they have the same keys and the same tensors."""
    mine, other = a.state_dict(), b.state_dict()
    if list(mine) != list(other):
        return f"other keys: {', '.join(sorted(mine.keys() ^ other.keys())[:3]) or 'their order'}"
    differing = [name for name in mine if mine[name].dtype != other[name].dtype or not mine[name].equal(other[name])]
    return f"{len(differing)} tensors differ, '{differing[0]}' first" if differing else None


def fingerprint(model: nn.Module) -> list[object]:
    """What must not change: modules and their modes, tensors and how often each was written to."""
    modules = [(name, type(module), module.training) for name, module in model.named_modules()]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [modules, [(name, id(tensor), tensor._version, tensor.requires_grad) for name, tensor in tensors]]


def figure(value: float) -> float | str:
    """Three digits; what JSON has no number for becomes its name."""
    return float(f"{value:.3g}") if math.isfinite(value) else str(value)
