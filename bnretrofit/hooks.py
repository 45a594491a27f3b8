"""Whether somebody listens to a module."""

from torch import nn

__all__ = ["has_hooks"]


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody listens to a module's calls; torch has no public way to ask."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)
