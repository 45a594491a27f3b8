"""model + choice -> which parameters are trained, and with what weight decay."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bnretrofit.batches import Batch
from bnretrofit.capture import capture
from bnretrofit.errors import UsageError
from bnretrofit.folding import make_fold_plan
from bnretrofit.norms import is_batch_norm
from bnretrofit.planning import named_classifiers
from bnretrofit.topology import output_layers

__all__ = ["Trained", "trained_alone", "trained_parameters"]


@dataclass(frozen=True, slots=True)
class Trained:
    """The parameters of a run.

    Attributes:
        decayed: Weights of layers, by name.
        undecayed: Weights and biases of norms, all other vectors and scalars, and what the model's own
            `no_weight_decay` names.
        redundant: Biases of layers whose norm takes them away again: with batch statistics their gradient is zero, and
            the norm's own bias says the same. They keep their value, which folding takes into account.
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


def trained_parameters(model: nn.Module, example: Batch, train: str) -> Trained:
    """Choose what is trained.

    Args:
        model: In eval mode; parameters that require no gradient stay out.
        example: Any batch of the right shape.
        train: See `TrainingConfig.train`.

    Raises:
        UsageError: That is nothing.
    """
    norms = {name for name, module in model.named_modules() if is_batch_norm(module)}
    heads = _heads(model, example) if "head" in train else set()
    redundant = _redundant_biases(model, example)
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
        plain = owner not in norms and leaf != "bias" and parameter.dim() > 1 and name not in exempt
        (decayed if plain else undecayed)[name] = parameter
    if not decayed and not undecayed:
        raise UsageError(
            f"there is nothing to train with '{train}'",
            why="no such parameter requires a gradient",
            remedy="train all, or retrofit the checkpoint first",
        )
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


def _heads(model: nn.Module, example: Batch) -> set[str]:
    graph = capture(model, example)
    return {graph.owners[node] for node in output_layers(graph)} | named_classifiers(model)


def _redundant_biases(model: nn.Module, example: Batch) -> tuple[str, ...]:
    folds = make_fold_plan(model, example).folds
    layers = {fold.layer for fold in folds if fold.direction == "backward"}
    return tuple(f"{name}.bias" for name in sorted(layers) if _has_bias(model.get_submodule(name)))


def _has_bias(layer: nn.Module) -> bool:
    return isinstance(getattr(layer, "bias", None), nn.Parameter)
