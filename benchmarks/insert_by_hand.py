"""Norms inserted by hand: hooks that average batches, a few lines of surgery, and the recipe's first form."""

import copy
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.insert_contenders import Inserted, held, run

__all__ = [
    "NoPlaceError",
    "behind",
    "deviation",
    "hooked",
    "insert_as_notebook",
    "insert_by_hand",
    "layers_of",
    "variance",
]


class NoPlaceError(Exception):
    """A network has no layer of the kind that is normalised."""


def insert_by_hand(
    network: nn.Module, batches: list[Tensor], gamma: Callable[[nn.Module], Tensor] | None = None
) -> Inserted:
    """What one writes in an afternoon: a norm after every convolution and dense layer, undone by its own weight.

    Args:
        network: The network; it is left as it is.
        batches: What statistics are measured on.
        gamma: Gives a norm's weight; by default it is sqrt(running_var + eps).
    """
    result = copy.deepcopy(network)
    return normed(result, layers_of(result), batches, gamma or deviation)


def insert_as_notebook(network: nn.Module, batches: list[Tensor]) -> Inserted:
    """Fastai's imagenet_batchnorm notebook of 2016: after the activations of dense layers, and gamma = the variance.

    Raises:
        NoPlaceError: The network has no dense layer with an activation.
    """
    result = copy.deepcopy(network)
    modules = dict(result.named_modules())
    names = list(modules)
    places = [
        after
        for name, after in pairwise(names)
        if isinstance(modules[name], nn.Linear) and isinstance(modules[after], nn.ReLU)
    ]
    if not places:
        raise NoPlaceError("no dense layer with an activation")
    return normed(result, places, batches, variance)


def hooked(network: nn.Module, batches: list[Tensor]) -> Callable[[], object]:
    """The part by hand that grows with the images, alone."""
    return lambda: averages(network, layers_of(network), batches)


def normed(
    result: nn.Module, places: list[str], batches: list[Tensor], gamma: Callable[[nn.Module], Tensor]
) -> Inserted:
    """Put a norm behind each of the modules. Changes its argument."""
    for name, (mean, var) in averages(result, places, batches).items():
        norm = behind(result, name, len(mean))
        norm.get_buffer("running_mean").copy_(mean)
        norm.get_buffer("running_var").copy_(var)
        with torch.no_grad():
            norm.get_parameter("weight").copy_(gamma(norm))
            norm.get_parameter("bias").copy_(mean)
    return Inserted(result, {name: held(result.get_submodule(f"{name}.1")) for name in places})


def behind(network: nn.Module, name: str, channels: int) -> nn.Module:
    """Put a norm behind a module, and return it."""
    module = network.get_submodule(name)
    norm = (nn.BatchNorm2d if isinstance(module, nn.Conv2d) else nn.BatchNorm1d)(channels).eval()
    network.set_submodule(name, nn.Sequential(module, norm))
    return norm


def averages(network: nn.Module, places: list[str], batches: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Each batch's mean and variance in float32, averaged over the batches: what hooks find in a few lines."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in places}
    handles = []
    for name in places:

        def note(_module: nn.Module, _inputs: object, output: Tensor, name: str = name) -> None:
            dims = [dim for dim in range(output.dim()) if dim != 1]
            found[name].append((output.mean(dims), output.var(dims)))

        handles.append(network.get_submodule(name).register_forward_hook(note))
    run(network, batches)
    for handle in handles:
        handle.remove()
    return {
        name: (torch.stack([mean for mean, _ in each]).mean(0), torch.stack([var for _, var in each]).mean(0))
        for name, each in found.items()
    }


def layers_of(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def deviation(norm: nn.Module) -> Tensor:
    eps: float = norm.eps  # type: ignore[assignment]
    return (norm.get_buffer("running_var") + eps).sqrt()


def variance(norm: nn.Module) -> Tensor:
    return norm.get_buffer("running_var")
