"""The average of a model's weights: timm's, of each tensor once, rounding at random the same way for the same step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from bnretrofit.copies import independent_copy

__all__ = ["average_of", "update_average"]


def average_of(model: nn.Module, decay: float) -> Any:
    """Timm's ModelEmaV3 of a model, whose weights the average begins with.

    Args:
        model: It is copied.
        decay: Of the average, once it has warmed up.
    """
    from timm.utils import ModelEmaV3

    # The average follows at once and slows down: at the start there is nothing worth averaging over long.
    return ModelEmaV3(independent_copy(model), decay=decay, use_warmup=True)


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
