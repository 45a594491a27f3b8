"""graph -> Plan: every conv and dense layer becomes a site, or a skip with a sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import fx, nn

from bnretrofit.activations import after_activation
from bnretrofit.batches import Batch, describe
from bnretrofit.capture import Graph, capture, op_of
from bnretrofit.choices import Choices
from bnretrofit.errors import UsageError
from bnretrofit.layers import LAYER_OPS, LayerKind, kind_of, norm_name_for
from bnretrofit.sites import Plan, Site, Skip
from bnretrofit.surgery import bypassed_sites
from bnretrofit.topology import following_norm, output_layers
from bnretrofit.twins import twin_sites

__all__ = ["make_plan", "named_classifiers"]


def make_plan(
    model: nn.Module,
    example: Batch,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    layers: Sequence[str] = ("conv", "dense"),
    placement: str = "pre",
    like: nn.Module | None = None,
) -> Plan:
    """Decide where norms go in. Computes nothing and leaves the model as it is.

    Args:
        model: The network, on any device, the meta device included.
        example: One batch as the model takes it; only shapes and dtypes matter.
        include: Module-name globs; layers that match none are skipped. A name given in full also takes the layer that
            makes the model's output, which is skipped otherwise.
        exclude: Module-name globs of layers to skip.
        layers: Families to take: "conv", "dense" or both.
        placement: "pre": between a layer and its activation, or "post": after the activation, where that is a module.
        like: A model of another architecture and the same function, in which the sites are the norms it has: `insert`
            then returns that architecture. With placement "pre" only.

    Returns:
        The plan; every conv and dense layer of the model is in `sites` or in `skips`.

    Raises:
        UsageError: A pattern matches no layer, or a choice is unknown.
        InputRejectedError: The model cannot be captured, or the twin has a place too many or too few for a tensor.
    """
    choices = Choices.checked(include=include, exclude=exclude, layers=layers, placement=placement)
    if like is not None and placement != "pre":
        raise UsageError(f"placement '{placement}' and like exclude each other", why="the twin says where norms stand")
    graph = capture(model, example)
    decisions = _decisions(graph)
    choices.check_patterns(list(decisions))
    heads = {graph.owners[node] for node in output_layers(graph)} | named_classifiers(model)
    decided = [_chosen(decision, choices, heads) for decision in decisions.values()]
    if placement == "post":
        decided = [after_activation(graph, item) if isinstance(item, Site) else item for item in decided]
    plan = _plan(decided, describe(example), placement)
    if like is not None:
        return twin_sites(plan, graph, like, example)
    return _without_bypassed(plan, model, example)


def _decisions(graph: Graph) -> dict[str, Site | Skip]:
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if op_of(node) in LAYER_OPS:
            calls.setdefault(graph.owners[node], []).append(node)
    kinds = {name: kind for name, module in graph.model.named_modules() if (kind := kind_of(module)) is not None}
    decisions: dict[str, Site | Skip] = {}
    # In the order in which the model runs them, then those it never runs, in the order of their names.
    for name in [*(name for name in calls if name in kinds), *(name for name in kinds if name not in calls)]:
        decisions[name] = _decision(graph, name, kinds[name], calls.get(name, []))
    for owner, nodes in calls.items():
        if owner not in kinds:
            decisions |= _functional(graph, nodes, decisions)
    return decisions


def _decision(graph: Graph, name: str, kind: LayerKind, calls: list[fx.Node]) -> Site | Skip:
    layer = graph.model.get_submodule(name)
    reason = _obstacle(graph, name, calls)
    if reason is not None:
        return Skip(name, kind.name, reason)
    dims = {kind.channel_dim(node.meta["val"].dim()) for node in calls}
    (channel_dim,) = dims
    if channel_dim is None:
        return Skip(name, kind.name, "its output has no batch dimension, which a BatchNorm needs")
    prefix = f"{name}." if name else ""
    return Site(
        name=name,
        kind=kind.name,
        channels=kind.channels(layer),
        calls=len(calls),
        norm=norm_name_for(kind, channel_dim),
        channel_dim=channel_dim,
        norm_name=f"{prefix}norm",
        result_name=f"{prefix}layer",
    )


def _obstacle(graph: Graph, name: str, calls: list[fx.Node]) -> str | None:
    """Why nothing can go in after a layer; None if something can."""
    layer = graph.model.get_submodule(name)
    weight = layer._parameters.get("weight")
    if weight is None:
        return "its weight is re-parametrised (computed from other tensors), so no scale can be absorbed into it"
    foreign = next((node for node in graph.uses(weight) if graph.owners[node] != name), None)
    if foreign is not None:
        place = graph.place(foreign)
        if any(module is not layer and module._parameters.get("weight") is weight for module in graph.model.modules()):
            return f"its weight is tied: {place} uses the same tensor"
        return f"its weight is used by {place} ({op_of(foreign)}) without calling the layer"
    return _uncalled(graph) if not calls else _call_obstacle(graph, name, weight, calls)


def _uncalled(graph: Graph) -> str:
    if any(source.op == "get_attr" for node in graph.nodes for source in node.all_input_nodes):
        return "no call of it was captured: it is never called in eval mode, or in a region that is not looked into"
    return "the model never calls it in eval mode"


def _call_obstacle(graph: Graph, name: str, weight: nn.Parameter, calls: list[fx.Node]) -> str | None:
    """Why nothing can go in after a layer that is called, judged by its calls."""
    for node in calls:
        use = graph.tensor(node.args[1])
        if use is None or use.tensor is not weight:
            return (
                "its weight is changed before it is used (standardised or masked), so no scale can be absorbed into it"
            )
    if any(graph.owners.get(user) == name and user not in calls for node in calls for user in node.users):
        return "its class does more with its output than convolve or multiply, and a norm could not stand between"
    if len({node.meta["val"].dim() for node in calls}) > 1:
        return "it is called on inputs of different ranks, which no single BatchNorm takes"
    parent = graph.model.get_submodule(name.rpartition(".")[0])
    if isinstance(parent, nn.TransformerEncoderLayer) and type(parent).forward is nn.TransformerEncoderLayer.forward:
        return "nn.TransformerEncoderLayer goes around what is inserted: its fast path calls no module"
    norms = [following_norm(graph, node) for node in calls]
    if all(norms):
        return f"{norms[0]} already normalises its output"
    return None


def _functional(graph: Graph, nodes: list[fx.Node], known: dict[str, Site | Skip]) -> dict[str, Skip]:
    """Layers that exist only as a call on a parameter of some other module."""
    found = {}
    for node in nodes:
        use = graph.tensor(node.args[1])
        if use is not None and use.name.rpartition(".")[0] not in known:
            found[use.name] = Skip(
                use.name,
                "functional",
                f"{graph.place(node)} applies this parameter by {op_of(node)}; no layer's output to normalise",
            )
    return found


def _chosen(decision: Site | Skip, choices: Choices, heads: set[str]) -> Site | Skip:
    if isinstance(decision, Skip):
        return decision
    reason = choices.reason_against(decision.name, decision.kind)
    if reason is None and decision.name in heads and not choices.names(decision.name):
        reason = "it makes the model's output (logits), which a BatchNorm would rescale in training"
    return decision if reason is None else Skip(decision.name, decision.kind, reason)


def named_classifiers(model: nn.Module) -> set[str]:
    """The layers that a network of timm calls its classifier: the graph does not show it of heads that are weighted."""
    config = getattr(model, "default_cfg", None)
    names = config.get("classifier") if isinstance(config, Mapping) else None
    names = (names,) if isinstance(names, str) else names if isinstance(names, (tuple, list)) else ()
    inside = [f"{name}." for name in names if name]
    return {name for name, _ in model.named_modules() if name in names or name.startswith(tuple(inside))}


def _plan(decided: list[Site | Skip], inputs: object, placement: str) -> Plan:
    return Plan(
        sites=tuple(item for item in decided if isinstance(item, Site)),
        skips=tuple(item for item in decided if isinstance(item, Skip)),
        inputs=inputs,
        placement=placement,
    )


def _without_bypassed(plan: Plan, model: nn.Module, example: Batch) -> Plan:
    """The plan less the sites whose norm a trial insertion shows to be bypassed, in eval or in training mode."""
    reasons, notes = bypassed_sites(model, plan.sites, example, training=True)
    skips = [Skip(site.name, site.kind, reasons[site.name]) for site in plan.sites if site.name in reasons]
    return replace(
        plan,
        sites=tuple(site for site in plan.sites if site.name not in reasons),
        skips=(*plan.skips, *skips),
        notes=tuple(notes),
    )
