"""What `bnretrofit plan` does."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bnretrofit.capture import Graph, capture
from bnretrofit.planning import make_plan
from bnretrofit.sites import Plan
from bnretrofit.workflows.following import follow
from bnretrofit.workflows.opening import ModelChoice, Opened, architecture, counterpart, example_for, open_model
from bnretrofit.workflows.planfile import PlanFile
from bnretrofit.zoo import ModelName

__all__ = ["PlanChoice", "Planned", "decide", "plan_model"]


@dataclass(frozen=True, slots=True)
class PlanChoice:
    """Which layers a user wants: see `planning.make_plan`. `like` is a model's name."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    layers: tuple[str, ...] = ("conv", "dense")
    like: str | None = None
    placement: str = "pre"


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and the model it is for.

    Attributes:
        plan: The plan.
        model: The model's name.
        like: Name of the architecture that the result is to have, where that is another.
        graph: Of the model as it is; None where it was not asked for.
        notes: What was assumed, to be told to the user.
    """

    plan: Plan
    model: str
    like: str | None
    graph: Graph | None
    notes: tuple[str, ...]

    @property
    def order(self) -> tuple[str, ...]:
        """Names of modules and tensors in the order in which the model runs and reads them; none without a graph."""
        return () if self.graph is None else _run_order(self.graph)


def plan_model(
    model: ModelChoice,
    choice: PlanChoice,
    *,
    checkpoint: Path | None = None,
    img_size: int | None = None,
    with_graph: bool = False,
) -> Planned:
    """Plan for an architecture, or for the one a checkpoint says it is. No tensor is computed.

    Args:
        model: What the user said of the model.
        choice: Which layers.
        checkpoint: A file, whose header then names the model.
        img_size: Side of the example image, instead of the model's own.
        with_graph: Keep the model's graph, which takes one capture more.

    Returns:
        The plan.

    Raises:
        RetrofitError: The model is not known or cannot be captured, or a pattern matches nothing.
    """
    opened = architecture(model) if checkpoint is None else open_model(checkpoint, model)
    example = example_for(opened.preprocessing.overridden(img_size=img_size), opened.model)
    plan, like = decide(opened, choice, example, trust_code=model.trust_code)
    graph = capture(opened.model, example) if with_graph else None
    return Planned(plan, str(opened.name), None if like is None else str(like), graph, opened.notes)


def decide(
    opened: Opened, choice: PlanChoice | PlanFile, example: Tensor, *, trust_code: bool
) -> tuple[Plan, ModelName | None]:
    """Plan as the user chose, or as a plan file says.

    Args:
        opened: The model.
        choice: Which layers, or a plan file that says it.
        example: A batch, on the model's device.
        trust_code: Permit running a Python file for the other architecture.

    Returns:
        The plan, and the architecture that the result is to have where that is another.

    Raises:
        RetrofitError: The model cannot be captured, or cannot be had as it was asked for.
    """
    like = counterpart(opened, choice.like, trust_code=trust_code)
    twin = None if like is None else like.model
    if isinstance(choice, PlanFile):
        plan = follow(choice, opened.model, example, twin)
    else:
        plan = make_plan(
            opened.model,
            example,
            include=choice.include or None,
            exclude=choice.exclude or None,
            layers=choice.layers,
            placement=choice.placement,
            like=twin,
        )
    return plan, None if like is None else like.name


def _run_order(graph: Graph) -> tuple[str, ...]:
    """What runs when: a plan keeps sites and skips apart, and says of neither where it stands among the others."""
    order: dict[str, None] = {}
    for node in graph.nodes:
        order.setdefault(graph.owners.get(node, ""))
        for use in filter(None, map(graph.tensor, node.all_input_nodes)):
            # A layer whose weight is only read has no call; a bare parameter stands in a plan under its own name.
            order.setdefault(use.name.rpartition(".")[0])
            order.setdefault(use.name)
    return tuple(order)
