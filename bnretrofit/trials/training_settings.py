"""Two models -> whether their norms would train alike: what shows in training only, and in no output before it."""

from torch import nn

from bnretrofit.norms import running_norms

__all__ = ["training_difference"]


def training_difference(a: nn.Module, b: nn.Module) -> tuple[str, str] | None:
    """The first norm of both models, by name, whose running statistics would move otherwise.

    Returns:
        What differs, as a sentence, and the norm's name; None if nothing does.
    """
    first, second = running_norms(a), running_norms(b)
    for name in (name for name in first if name in second):
        momenta = first[name].momentum, second[name].momentum
        if momenta[0] != momenta[1]:
            return f"the norm '{name}' has momentum {momenta[0]} in one model and {momenta[1]} in the other", name
    return None
