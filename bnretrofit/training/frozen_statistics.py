"""Frozen statistics: norms use their running statistics in training too, at the plain network's cost.

Which norm is computed with which layer is read from the captured graphs of both modes, never guessed from an order.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from bnretrofit.batches import Batch, doubled
from bnretrofit.capture import Graph, capture, refuse_wrapped
from bnretrofit.errors import InputRejectedError
from bnretrofit.norm_calls import layer_before
from bnretrofit.norms import is_batch_norm, running_norms
from bnretrofit.obstacles import calls_of, norm_obstacle, obstacle_before
from bnretrofit.sites import Leave
from bnretrofit.training.absorbed_forward import forward_in_eval_mode, forward_normalised, forward_rest
from bnretrofit.training.norm_mode import momentum_set

__all__ = ["Absorbed", "FrozenStatistics", "frozen_statistics"]


@dataclass(frozen=True, slots=True)
class Absorbed:
    """A norm that costs no pass of its own.

    Attributes:
        norm: Its name.
        layer: The name of the layer that it alone follows.
    """

    norm: str
    layer: str


@dataclass(frozen=True, slots=True)
class FrozenStatistics:
    """How each norm of a model runs while its statistics are frozen.

    Attributes:
        absorbed: Those that are computed with the layer before them.
        leaves: Those that run by themselves, as in eval mode, and why.
    """

    absorbed: tuple[Absorbed, ...]
    leaves: tuple[Leave, ...]


@contextmanager
def frozen_statistics(model: nn.Module, example: Batch) -> Iterator[FrozenStatistics]:
    """Let a model normalise by its running statistics, and leave them as they are, in both modes while this lasts.

    Edits the calls of the model's modules and takes the edits back in the end. Tensors and their names stay as they
    are. A deep copy made meanwhile has tensors of its own, and keeps computing this way.

    Args:
        model: The network with norms, without its wrapper (DistributedDataParallel, torch.compile).
        example: One batch as the model takes it; only shapes and dtypes matter.

    Yields:
        How each norm runs.

    Raises:
        InputRejectedError: The model is scripted or wrapped.
    """
    norms = {name: norm for name, norm in model.named_modules() if is_batch_norm(norm)}
    decisions = _decided(model, example, list(norms)) if norms else {}
    found = FrozenStatistics(
        tuple(decision for decision in decisions.values() if isinstance(decision, Absorbed)),
        tuple(Leave(name, type(norms[name]).__name__, why) for name, why in decisions.items() if isinstance(why, str)),
    )
    forwards: dict[nn.Module, Callable[..., Any]] = {}
    for leave in found.leaves:
        norm = norms[leave.name]
        forwards[norm] = partial(forward_in_eval_mode, norm, norm.forward)
    for pair in found.absorbed:
        norm, layer = norms[pair.norm], model.get_submodule(pair.layer)
        forwards |= {norm: partial(forward_rest, norm), layer: partial(forward_normalised, layer, norm)}
    with _replaced(forwards):
        yield found


@contextmanager
def _replaced(forwards: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Give modules other forwards of their own. Not closures: deepcopy follows a partial's arguments to the copy."""
    before: dict[nn.Module, Any] = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward


def _decided(model: nn.Module, example: Batch, names: list[str]) -> dict[str, Absorbed | str]:
    """For each norm the layer that takes it, or why none does, as a sentence."""
    refuse_wrapped(model)
    try:
        # Without a momentum of its own a norm counts its batches, which no graph holds.
        with momentum_set(running_norms(model), 0.1):
            graphs = [capture(model, example), capture(model, doubled(example), training=True)]
    except InputRejectedError as error:
        # Nobody knows then what follows what; by itself each norm is right anyway.
        return dict.fromkeys(names, f"{error.what}: {error.why}")
    return {name: _decision(graphs, name) for name in names}


def _decision(graphs: list[Graph], name: str) -> Absorbed | str:
    reason = norm_obstacle(graphs[0], name, graphs[0].model.get_submodule(name))
    if reason is not None:
        return reason
    layers: set[str] = set()
    for graph in graphs:
        calls = calls_of(graph, name)
        if not calls:
            return "training mode does not run it, or where the graph does not show it, as in an autocast region"
        for call in calls:
            source = layer_before(graph, call)
            if isinstance(source, str):
                return source
            layers.add(graph.owners[source])
    if len(layers) > 1:
        return f"it follows several layers: {', '.join(sorted(layers))}"
    (layer,) = layers
    return _obstacle(graphs, layer, name) or Absorbed(name, layer)


def _obstacle(graphs: list[Graph], layer_name: str, norm_name: str) -> str | None:
    for graph in graphs:
        if (reason := obstacle_before(graph, layer_name, norm_name)) is not None:
            return reason
        layer, norm = graph.model.get_submodule(layer_name), graph.model.get_submodule(norm_name)
        if "forward" in vars(layer) or "forward" in vars(norm):
            return f"its own forward or that of '{layer_name}' was replaced"
        if next(layer.children(), None) is not None:
            # The norm may be one of them, and something else come after it.
            return f"'{layer_name}' has modules inside, and what it returns may be no longer the layer's output"
    return None
