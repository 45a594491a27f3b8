"""model + choice -> which parameters are trained, and with what weight decay."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bnretrofit.batches import Batch
from bnretrofit.capture import Graph, capture
from bnretrofit.errors import UsageError
from bnretrofit.norm_calls import backward_norms
from bnretrofit.norms import is_batch_norm, is_frozen_norm
from bnretrofit.obstacles import norm_obstacle, obstacle_before
from bnretrofit.planning import named_classifiers
from bnretrofit.topology import output_layers

__all__ = ["Trained", "trained_alone", "trained_parameters"]

OTHER_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.instancenorm._InstanceNorm)  # noqa: SLF001
"""Their weights may have several dimensions, and scale like those of a BatchNorm."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The parameters of a run.

    Attributes:
        decayed: Weights of layers, by name.
        undecayed: Weights and biases of norms, all other vectors and scalars, and what the model's own
            `no_weight_decay` names.
        redundant: Biases of layers whose norm takes them away again, with batch statistics, or whose norm has a bias
            that is trained and says the same. They keep their value, which folding takes into account.
    """

    decayed: dict[str, Tensor]
    undecayed: dict[str, Tensor]
    redundant: tuple[str, ...]

    def groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser."""
        groups = ((self.decayed, weight_decay), (self.undecayed, 0.0))
        return [{"params": list(some.values()), "weight_decay": decay} for some, decay in groups if some]

    def named(self) -> dict[str, Tensor]:
        """All of them, in the order of the groups."""
        return self.decayed | self.undecayed


def trained_parameters(model: nn.Module, example: Batch, train: str, *, batch_statistics: bool) -> Trained:
    """Choose what is trained.

    Args:
        model: In eval mode; parameters that require no gradient stay out.
        example: Any batch of the right shape.
        train: See `TrainingConfig.train`.
        batch_statistics: Whether norms use those of each batch.

    Raises:
        UsageError: That is nothing, or a part of it is not there.
    """
    norms = {name for name, module in model.named_modules() if is_batch_norm(module)}
    others = {name for name, module in model.named_modules() if isinstance(module, OTHER_NORMS)}
    graph = capture(model, example)
    heads = _heads(graph) if "head" in train else set()
    learning = norms if train == "all" or "bn" in train else set()
    redundant = _redundant_biases(graph, learning, batch_statistics=batch_statistics)
    # What timm's models say of tokens and embeddings.
    named: Any = getattr(model, "no_weight_decay", ())
    exempt = set(named() if callable(named) else named)
    decayed: dict[str, Tensor] = {}
    undecayed: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        wanted = train == "all" or ("bn" in train and owner in norms) or owner in heads
        if not wanted or not parameter.requires_grad or name in redundant:
            continue
        plain = owner not in norms | others and leaf != "bias" and parameter.dim() > 1 and name not in exempt
        (decayed if plain else undecayed)[name] = parameter
    _check_parts(train, [*decayed, *undecayed], norms, heads)
    return Trained(decayed, undecayed, redundant)


@contextmanager
def trained_alone(model: nn.Module, trained: Trained) -> Iterator[None]:
    """Let these parameters alone require gradients while it lasts: no time is spent on those of others."""
    chosen = {id(parameter) for parameter in trained.named().values()}
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in chosen)
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def _heads(graph: Graph) -> set[str]:
    return {graph.owners[node] for node in output_layers(graph, behind_norms=True)} | named_classifiers(graph.model)


def _check_parts(train: str, chosen: Collection[str], norms: Collection[str], heads: Collection[str]) -> None:
    """Refuse a part of which nothing is trained."""
    owners = {name.rpartition(".")[0] for name in chosen}
    parts: dict[str, tuple[Collection[str], str]] = {
        "bn": (norms, "the network has no norms"),
        "head": (heads, "no layer of its own can be told to make the logits"),
    }
    for part in train.split("+"):
        found, missing = parts.get(part, (owners, "there is none"))
        if not owners.intersection(found):
            raise UsageError(
                f"there is nothing to train with '{part}'",
                why="no such parameter requires a gradient" if found else missing,
                remedy="train another part, or retrofit the checkpoint first" if part == "bn" else "train another part",
            )


def _redundant_biases(graph: Graph, learning: Collection[str], *, batch_statistics: bool) -> tuple[str, ...]:
    found = set()
    for node, call in backward_norms(graph).items():
        name, layer = graph.owners[node], graph.owners[call]
        norm, bias = graph.owner(node), getattr(graph.owner(call), "bias", None)
        own = getattr(norm, "bias", None)
        says_the_same = name in learning and own is not None and own.requires_grad
        taken_away = batch_statistics and not is_frozen_norm(norm)
        if not isinstance(bias, nn.Parameter) or not (taken_away or says_the_same):
            continue
        if norm_obstacle(graph, name, norm) is None and obstacle_before(graph, layer, name) is None:
            found.add(f"{layer}.bias")
    return tuple(sorted(found))
