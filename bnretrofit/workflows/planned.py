"""What `bnretrofit plan` does."""

from dataclasses import dataclass
from pathlib import Path

from bnretrofit.planning import make_plan
from bnretrofit.sites import Plan
from bnretrofit.workflows.opening import ModelChoice, architecture, example_for, open_model

__all__ = ["PlanChoice", "Planned", "plan_model"]


@dataclass(frozen=True, slots=True)
class PlanChoice:
    """Which layers a user wants: see `planning.make_plan`. `like` is a model's name."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    layers: tuple[str, ...] = ("conv", "dense")
    like: str | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and the model it is for."""

    plan: Plan
    model: str
    notes: tuple[str, ...]


def plan_model(
    model: ModelChoice, choice: PlanChoice, *, checkpoint: Path | None = None, img_size: int | None = None
) -> Planned:
    """Plan for an architecture, or for the one a checkpoint says it is. No tensor is computed.

    Args:
        model: What the user said of the model.
        choice: Which layers.
        checkpoint: A file, whose header then names the model.
        img_size: Side of the example image, instead of the model's own.

    Returns:
        The plan.

    Raises:
        RetrofitError: The model is not known or cannot be captured, or a pattern matches nothing.
    """
    opened = architecture(model) if checkpoint is None else open_model(checkpoint, model)
    preprocessing = opened.preprocessing.overridden(img_size=img_size)
    like = (
        None
        if choice.like is None
        else architecture(ModelChoice(choice.like, None, opened.num_classes, model.trust_code)).model
    )
    plan = make_plan(
        opened.model,
        example_for(preprocessing, opened.model),
        include=choice.include or None,
        exclude=choice.exclude or None,
        layers=choice.layers,
        like=like,
    )
    return Planned(plan, str(opened.name), opened.notes)
