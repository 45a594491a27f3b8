"""The average of a model's weights: timm's, of each tensor once, rounding at random the same way for the same step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from bnretrofit.copies import independent_copy

__all__ = ["average_of", "share_of_the_start", "update_average"]

NOTICEABLE = 0.05
"""A run ends near its best weights; so much of those it began with can be seen in its accuracy."""


def average_of(model: nn.Module, decay: float, *, warmup: bool) -> Any:
    """Timm's ModelEmaV3 of a model, whose weights the average begins with.

    Args:
        model: It is copied.
        decay: Of the average.
        warmup: Follow at once and slow down to that decay, as timm has it: 1 - (1 + step)^(-2/3), which is below 0.999
            for the first 31,622 steps.
    """
    from timm.utils import ModelEmaV3

    return ModelEmaV3(independent_copy(model), decay=decay, use_warmup=warmup)


def share_of_the_start(decay: float | None, steps: int, *, warmup: bool) -> str | None:
    """Tell how much of an average is still what the run began with, where that is noticeable.

    Args:
        decay: Of the average; None without one.
        steps: Of the whole run.
        warmup: As `average_of` takes it; the average then follows at once.
    """
    # timm's average takes over what the first step leaves.
    left = 0.0 if decay is None or warmup or not steps else decay ** (steps - 1)
    if left < NOTICEABLE:
        return None
    return (
        f"after {steps} steps with a decay of {decay:g}, {100 * left:.0f} % of the weights' average are those that the "
        "run began with: a lower --model-ema-decay, or --model-ema-warmup, follows faster"
    )


def update_average(average: Any, model: nn.Module, step: int, seed: int) -> None:
    """Let an average follow.

    Args:
        average: As `average_of` makes it.
        model: What it follows.
        step: Steps that were done.
        seed: Of what rounds at random, as averages in half precision do in timm from 1.0.31 on.
    """
    generator = getattr(average, "_sr_generator", None)
    if generator is not None:
        generator.manual_seed(seed)
    # A tensor with two names would be averaged twice, and follow at another pace than the others.
    again = _second_names(model)
    with _without(average.module, again), _without(model, again):
        average.update(model, step=step)


def _second_names(model: nn.Module) -> set[str]:
    named: tuple[Callable[..., Any], ...] = (model.named_parameters, model.named_buffers)
    return {name for names in named for name, _ in names(remove_duplicate=False)} - {
        name for names in named for name, _ in names()
    }


@contextmanager
def _without(module: nn.Module, names: set[str]) -> Iterator[None]:
    """While it lasts, a module's state_dict leaves these out."""

    def leave_out(_module: nn.Module, state: dict[str, Any], _prefix: str, _metadata: dict[str, Any]) -> None:
        for name in names & state.keys():
            del state[name]

    handle = module.register_state_dict_post_hook(leave_out)
    try:
        yield
    finally:
        handle.remove()
