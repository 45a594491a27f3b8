"""Twins: carry a model's tensors into another architecture of the same function, built by its own factory.

The layers of the two captured graphs are matched in the order in which they run, and by the shapes of their tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, fx, nn

from bnretrofit.batches import Batch
from bnretrofit.capture import Graph, TensorUse, capture, op_of
from bnretrofit.copies import independent_copy, load_tensors
from bnretrofit.errors import InputRejectedError
from bnretrofit.layers import LAYER_OPS
from bnretrofit.sites import Plan, Site, Skip
from bnretrofit.surgery import norm_after

__all__ = ["Alignment", "align", "carry", "twin_sites", "with_tensors_of"]

COUNTER = "num_batches_tracked"


@dataclass(frozen=True, slots=True)
class Alignment:
    """How a twin's tensors answer to a model's.

    Attributes:
        tensors: Tensor names of the twin -> tensor names of the model.
        norms: Layer names of the model -> (layer, norm) names of the twin, for norms that only the twin has.
    """

    tensors: dict[str, str]
    norms: dict[str, tuple[str, str]]


def align(graph: Graph, twin: Graph) -> Alignment:
    """Match the tensors of two graphs.

    Args:
        graph: The model.
        twin: The other architecture; it may have a BatchNorm more after a conv or dense layer.

    Returns:
        The match.

    Raises:
        InputRejectedError: The twin has a place too many or too few for a tensor; the message names it.
    """
    ours, theirs = _steps(graph), _steps(twin)
    tensors: dict[str, str] = {}
    norms: dict[str, tuple[str, str]] = {}
    position = 0
    last: tuple[fx.Node, fx.Node] | None = None
    for node, uses in theirs:
        current = ours[position] if position < len(ours) else None
        if current is not None and _alike(current, (node, uses)):
            tensors |= {use.name: other.name for use, other in zip(uses, current[1], strict=True)}
            last = (current[0], node)
            position += 1
        elif last is not None and op_of(last[1]) in LAYER_OPS and norm_after(last[1]) is node:
            norms[graph.owners[last[0]]] = (twin.owners[last[1]], twin.owners[node])
        else:
            raise _mismatch(twin, node, uses, graph, current)
    if position < len(ours):
        raise _mismatch(twin, None, [], graph, ours[position])
    return Alignment(_with_unread(graph.model, twin.model, tensors, norms), norms)


def twin_sites(plan: Plan, graph: Graph, like: nn.Module, example: Batch) -> Plan:
    """Restrict a plan to the norms a twin has, under the twin's names.

    Raises:
        InputRejectedError: The twin does not fit, or has a norm after a layer that the plan skips.
    """
    alignment = align(graph, capture(like, example))
    name = type(like).__name__
    reasons = {skip.name: skip.reason for skip in plan.skips}
    for layer, (_, norm) in alignment.norms.items():
        if layer in reasons:
            raise InputRejectedError(
                f"the twin {name} has a norm '{norm}' after a layer that gets none", where=layer, why=reasons[layer]
            )
    sites = tuple(
        _twin_site(site, like, *alignment.norms[site.name]) for site in plan.sites if site.name in alignment.norms
    )
    skips = tuple(
        Skip(site.name, site.kind, f"the twin {name} has no BatchNorm after it")
        for site in plan.sites
        if site.name not in alignment.norms
    )
    return replace(plan, sites=sites, skips=(*plan.skips, *skips), twin=name, tensors=alignment.tensors, like=like)


def carry(twin: nn.Module, state: Mapping[str, Tensor], *, training: bool) -> nn.Module:
    """A copy of the twin that holds the given tensors, loaded strictly.

    Args:
        twin: The architecture; it may be on the meta device.
        state: A tensor for every key of the twin's state_dict; one that is a frozen parameter stays frozen.
        training: The mode of the result.
    """
    result = independent_copy(twin)
    load_tensors(result, {name: tensor.detach() for name, tensor in state.items()})
    for name, parameter in result.named_parameters():
        given = state[name]
        parameter.requires_grad_(given.requires_grad if isinstance(given, nn.Parameter) else parameter.requires_grad)
    _refuse_meta(result)
    return result.train(training)


def with_tensors_of(graph: Graph, model: nn.Module) -> Graph:
    """An architecture's graph with the tensors of a model of that architecture in place of its own."""
    state = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    tensors = {node: replace(use, tensor=state.get(use.name, use.tensor)) for node, use in graph.tensors.items()}
    return replace(graph, model=model, tensors=tensors)


def _refuse_meta(model: nn.Module) -> None:
    for name, buffer in model.named_buffers():
        if buffer.is_meta:
            raise InputRejectedError(
                "the twin keeps a buffer that no checkpoint holds, on the meta device",
                where=name,
                remedy="build the twin on the CPU",
            )


def _twin_site(site: Site, like: nn.Module, layer_name: str, norm_name: str) -> Site:
    norm = like.get_submodule(norm_name)
    if getattr(norm, "running_mean", None) is None or getattr(norm, "weight", None) is None:
        raise InputRejectedError(
            "the twin's norm cannot be set to the identity",
            where=norm_name,
            why="it has no running statistics or no weight",
        )
    return replace(site, norm=type(norm).__name__, norm_name=norm_name, result_name=layer_name)


Step = tuple[fx.Node, list[TensorUse]]


def _steps(graph: Graph) -> list[Step]:
    steps = []
    for node in graph.nodes:
        uses = [use for source in node.all_input_nodes if (use := graph.tensor(source)) is not None]
        if uses:
            steps.append((node, uses))
    return steps


def _alike(a: Step, b: Step) -> bool:
    shapes = [[use.tensor.shape for use in step[1]] for step in (a, b)]
    return op_of(a[0]) == op_of(b[0]) and shapes[0] == shapes[1]


def _described(step: Step | None) -> str:
    if step is None:
        return "nothing"
    return ", ".join(f"'{use.name}' {tuple(use.tensor.shape)}" for use in step[1])


def _mismatch(
    twin: Graph, node: fx.Node | None, uses: list[TensorUse], graph: Graph, ours: Step | None
) -> InputRejectedError:
    theirs = None if node is None else (node, uses)
    extra = {use.name for use in uses} if node is not None else set()
    return InputRejectedError(
        f"the twin {type(twin.model).__name__} is not the same architecture as the {type(graph.model).__name__}",
        where=next(iter(sorted(extra)), None) or (ours[1][0].name if ours else None),
        why=f"where the twin has {_described(theirs)}, the model has {_described(ours)}",
        remedy="pass a model of the same layers in the same order, but for BatchNorms after conv or dense layers",
    )


def _with_unread(
    model: nn.Module, twin: nn.Module, tensors: dict[str, str], norms: dict[str, tuple[str, str]]
) -> dict[str, str]:
    """Add the tensors that no call reads: counters beside their norms, and others by name."""
    ours, theirs = model.state_dict(), twin.state_dict()
    inserted = {norm for _, norm in norms.values()}
    result = {name: source for name, source in tensors.items() if name in theirs}
    for name, tensor in theirs.items():
        holder, _, leaf = name.rpartition(".")
        if name in result or holder in inserted:
            continue
        source = name
        if leaf == COUNTER and (statistics := tensors.get(f"{holder}.running_mean")) is not None:
            source = statistics.removesuffix("running_mean") + COUNTER
        if source not in ours or ours[source].shape != tensor.shape:
            raise InputRejectedError(
                f"the twin {type(twin).__name__} adds a place for a tensor the model does not have", where=name
            )
        result[name] = source
    left = [name for name in ours if name not in set(result.values()) and not name.endswith(COUNTER)]
    if left and (tied := _names_of_same(model, left, set(result.values()))):
        left = [name for name in left if name not in tied]
    if left:
        raise InputRejectedError(
            f"the twin {type(twin).__name__} lacks a place for a tensor of the model", where=left[0]
        )
    return result


def _names_of_same(model: nn.Module, names: list[str], used: set[str]) -> set[str]:
    # A tied tensor stands in the state_dict under each of its names and is read under one.
    state = model.state_dict(keep_vars=True)
    taken = {id(state[name]) for name in used if name in state}
    return {name for name in names if id(state[name]) in taken}
