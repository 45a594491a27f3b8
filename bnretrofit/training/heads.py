"""A classifier -> the same with a new last layer, for other classes."""

from typing import Any

import torch
from torch import nn

from bnretrofit.batches import Batch
from bnretrofit.capture import capture
from bnretrofit.copies import replace_module
from bnretrofit.errors import InputRejectedError
from bnretrofit.topology import output_layers
from bnretrofit.training_data.seeding import seed_of

__all__ = ["replace_head"]

SIZES = {nn.Linear: "out_features", nn.Conv2d: "out_channels"}


def replace_head(model: nn.Module, example: Batch, classes: int, seed: int) -> str:
    """Replace the layer that makes the logits by a new one, in its place.

    Its weights are drawn as timm draws those of a new head, from a normal distribution of standard deviation 0.01, and
    its biases are nought: at first all classes are about equally likely.

    Args:
        model: A classifier, which is changed.
        example: Any batch of the right shape.
        classes: Outputs of the new layer.
        seed: Of the draw.

    Returns:
        The layer's name.

    Raises:
        InputRejectedError: There is no one layer that makes the logits, or it is of a kind that cannot be replaced.
    """
    graph = capture(model, example)
    names = {graph.owners[node] for node in output_layers(graph)}
    layer: Any = model.get_submodule(next(iter(names))) if len(names) == 1 else None
    size = SIZES.get(type(layer))
    if size is None:
        why = f"they come from {', '.join(sorted(names)) or 'none that is known'}"
        raise InputRejectedError(
            "the layer that makes the logits cannot be replaced",
            where=type(model).__name__,
            why=why,
            remedy="give the network a new head by its own library first",
        )
    (name,) = names
    made = _drawn(layer, size, classes, seed_of(seed, "head"))
    replace_module(model, layer, made)
    return name


def _drawn(layer: Any, size: str, classes: int, seed: int) -> nn.Module:
    given: dict[str, Any] = {name: getattr(layer, name) for name in type(layer).__constants__ if name in ARGUMENTS}
    given[size] = classes
    options = {"bias": layer.bias is not None, "device": layer.weight.device, "dtype": layer.weight.dtype}
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        made: Any = type(layer)(**given, **options)
    with torch.no_grad():
        made.weight.copy_(torch.randn(made.weight.shape, generator=generator) * 0.01)
        if made.bias is not None:
            made.bias.zero_()
    made.train(layer.training)
    return made  # type: ignore[no-any-return]


ARGUMENTS = (
    *("in_features", "out_features", "in_channels", "out_channels"),
    *("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
)
