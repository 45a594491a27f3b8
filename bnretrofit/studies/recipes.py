"""What a run of a study depends on, and what it came to; both go to and from JSON."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from bnretrofit.comparison import finite
from bnretrofit.studies.networks import USUAL, Shape

__all__ = ["WATCHES", "Budget", "Outcome", "Recipe"]

WATCHES = ("", "inputs", "landscape", "shifted images")


@dataclass(frozen=True, slots=True)
class Budget:
    """How long every run of a study lasts, and on what.

    Attributes:
        images: Their name.
        learnt: How many there are to learn from.
        judged: How many there are to judge with.
        steps: Of the optimiser.
        batch_size: Images of a step.
        looks: How often accuracy on the images to judge with is measured on the way.
    """

    images: str
    learnt: int
    judged: int
    steps: int
    batch_size: int
    looks: int = 15


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that the outcome of a run depends on, besides the code and the machine.

    Attributes:
        budget: How long it lasts, and on what.
        norms: Whether the network gets a BatchNorm after each layer but the last.
        rate: Learning rate after warm-up.
        seed: Of weights, order and dropout.
        shape: Of the network.
        share: How many images of a step share their statistics; None for all.
        frozen: The norms keep the statistics that they were inserted with.
        watch: What is measured on the way, one of `WATCHES`.
    """

    budget: Budget
    norms: bool
    rate: float
    seed: int
    shape: Shape = USUAL
    share: int | None = None
    frozen: bool = False
    watch: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Recipe":
        """What `to_json` wrote."""
        return cls(**document | {"budget": Budget(**document["budget"]), "shape": Shape(**document["shape"])})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to.

    Attributes:
        top1: Share of the images to judge with whose class was told right; None where training diverged.
        train_top1: The same of the images it learnt from.
        loss: Mean cross-entropy on the images to judge with.
        train_loss: The same on those it learnt from.
        curve: Steps, processor seconds of training until then, and accuracy on the images to judge with.
        gradients: Norm of each layer's gradient by its weight, at the first step, over the norm of the weight.
        watched: What `Recipe.watch` asked for, by name; "step" says at which steps.
    """

    top1: float | None
    train_top1: float | None
    loss: float | None
    train_loss: float | None
    curve: tuple[tuple[int, float, float], ...]
    gradients: tuple[float, ...]
    watched: dict[str, tuple[float, ...]]

    def to_json(self) -> dict[str, Any]:
        """As a JSON document; a figure that is not finite is its name as a string."""
        document: dict[str, Any] = finite(dataclasses.asdict(self))
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Outcome":
        """What `to_json` wrote."""
        single = {name: value if value is None else float(value) for name, value in document.items() if name in SINGLE}
        curve = tuple((int(step), float(seconds), float(top1)) for step, seconds, top1 in document["curve"])
        watched = {name: tuple(map(float, values)) for name, values in document["watched"].items()}
        return cls(**single, curve=curve, gradients=tuple(map(float, document["gradients"])), watched=watched)


SINGLE = ("top1", "train_top1", "loss", "train_loss")
