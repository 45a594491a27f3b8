"""A classifier on images -> its logits, or what is wrong with the images."""

from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.batches import dtype_of
from bnretrofit.errors import InputRejectedError
from bnretrofit.trials.running import taking

__all__ = ["logits_of", "logits_on", "output_on"]


NOT_OF_IMAGES: tuple[type[Exception], ...] = (
    torch.AcceleratorError,
    # Torch may be built without.
    *([torch.distributed.DistError] if torch.distributed.is_available() else []),
)
"""What a device or another rank is the reason of."""


def logits_on(model: nn.Module, images: Tensor, called: nn.Module | None = None) -> Tensor:
    """Run a classifier: see `output_on`.

    Returns:
        The logits (N, classes), in float32 at least.

    Raises:
        InputRejectedError: It does not run on these images, or does not give logits.
    """
    return logits_of(output_on(model, images, called), type(model).__name__)


def output_on(model: nn.Module, images: Tensor, called: nn.Module | None = None) -> Any:
    """Run a network.

    Args:
        model: The network.
        images: (N, C, H, W), on its device.
        called: What is called in its stead, such as what ranks wrap it in; None for itself. What another one raises
            passes as it is: most of that is of the ranks, which have run the classifier itself on their first images.

    Returns:
        What it gives.

    Raises:
        InputRejectedError: It does not run on these images.
    """
    name, kind = type(model).__name__, _short(images.dtype)
    what = f"the {name} does not run on {kind} images of shape {tuple(images.shape[1:])}"
    if called is None or called is model:
        with taking(what, _remedy(images, dtype_of(model)), passing=NOT_OF_IMAGES):
            return model(images)
    return called(images)


def _remedy(images: Tensor, wanted: torch.dtype) -> str:
    """What helps: what was given is as likely of another kind as of another size."""
    if not images.is_floating_point():
        return f"convert them to {_short(wanted)}, and scale them as the network expects"
    if images.dtype != wanted:
        return f"convert them to {_short(wanted)}, which the network is in"
    return "give images of the size and with the channels that it takes (--img-size)"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def logits_of(output: Any, where: str) -> Tensor:
    """The logits (N, classes) of what a network gives, in float32 at least.

    Raises:
        InputRejectedError: It gives something else.
    """
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(found, Tensor) or found.dim() != 2:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(output).__name__
        raise InputRejectedError(
            "the network does not give logits (N, classes)",
            where=where,
            why=f"it gives {shape}",
            remedy="take a classifier that gives its logits alone, or with an attribute 'logits'",
        )
    return found if found.dtype == torch.float64 else found.float()
