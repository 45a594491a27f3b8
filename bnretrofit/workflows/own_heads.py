"""New last layers: for which networks they are made here, and that the library would make the same."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from bnretrofit.errors import UsageError
from bnretrofit.workflows.opening import ModelChoice, Opened, architecture
from bnretrofit.zoo import parse_model

__all__ = ["check_heads", "with_own_head"]


def with_own_head(path: Path | None, model: ModelChoice) -> ModelChoice:
    """The choice by which a model is opened that may get a new last layer.

    timm gives its pretrained networks new heads itself, also those with two of them; all others keep the head of their
    weights until it is replaced.
    """
    library = None if path is not None or model.name is None else parse_model(model.name).library
    return model if library == "timm" else replace(model, num_classes=None)


def check_heads(network: nn.Module, opened: Opened) -> None:
    """See that a network with a new head is what its library makes for so many classes.

    Raises:
        UsageError: It has other heads beside the new one.
    """
    if opened.name.library not in ("torchvision", "timm"):
        return
    tensors = network.state_dict()
    stock = architecture(ModelChoice(str(opened.name), None, opened.num_classes)).model.state_dict()
    names = [name for name, each in stock.items() if name in tensors and tensors[name].shape != each.shape]
    if names:
        raise UsageError(
            f"the network has other heads beside the new one: {', '.join(names[:4])}",
            where=str(opened.name),
            remedy="give it new heads by its own library first",
        )
