"""New last layers: for which networks they are made here, and that the library would make the same."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from bnretrofit.errors import InputRejectedError, UsageError
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


def check_heads(network: nn.Module, opened: Opened, *, trust_code: bool = False) -> None:
    """See that a network with a new head is what its library, or its factory, makes for so many classes.

    All who open the result make that first.

    Args:
        network: With its new head.
        opened: What it came from, with the new number of classes.
        trust_code: Permit running a Python file for its factory.

    Raises:
        UsageError: The architecture cannot be made with so many classes, or it has other heads beside the new one.
    """
    choice = ModelChoice(str(opened.name), None, opened.num_classes, trust_code)
    try:
        stock = architecture(choice).model.state_dict()
    except InputRejectedError as error:
        raise UsageError(
            f"{opened.name} cannot be made with {opened.num_classes} classes, and the result could not be opened",
            why=error.why,
            remedy="give the factory an argument num_classes, or make one of so many outputs and name that",
        ) from error
    tensors = network.state_dict()
    names = [name for name, each in stock.items() if name in tensors and tensors[name].shape != each.shape]
    if names:
        raise UsageError(
            f"the network has other heads beside the new one: {', '.join(names[:4])}",
            where=str(opened.name),
            remedy="give it new heads by its own library first",
        )
