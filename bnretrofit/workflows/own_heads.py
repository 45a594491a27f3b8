"""New last layers: for which networks they are made here, and that the library would make the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.workflows.opening import ModelChoice, Opened, architecture
from bnretrofit.zoo import parse_model

__all__ = ["check_head_learns", "check_heads", "has_new_head", "with_own_head"]


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


def has_new_head(opened: Opened, classes: int, outputs: int) -> bool:
    """Whether the last layer is to be one whose weights are drawn.

    Args:
        opened: What it came from.
        classes: Outputs that were asked for.
        outputs: Those that the network has as it was opened.
    """
    if classes != outputs:
        return True
    # timm has drawn one itself, where its weights have another number of classes.
    network = opened.model if opened.whole is None else opened.whole
    weights: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    from_timm = opened.checkpoint is None and opened.name.library == "timm"
    return from_timm and weights.get("num_classes", classes) != classes


def check_head_learns(train: str, classes: int) -> None:
    """Refuse to leave a new last layer as it was drawn.

    Args:
        train: See `TrainingConfig.train`.
        classes: Outputs of the new layer.

    Raises:
        UsageError: It would learn nothing.
    """
    if train == "bn":
        raise UsageError(
            f"--train bn does not train the new last layer of {classes} outputs",
            why="its weights are drawn at random, and would stay so",
            remedy="take --train bn+head, or leave out --num-classes",
        )
