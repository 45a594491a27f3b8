"""A captured graph -> the network as people draw it.

Given: hundreds of operators. Result: a node per layer, per norm that stands alone, per place where branches part or
join. What alone follows a layer (its norm, its activation, a pooling) is told beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, fx, nn

from bnretrofit.capture import Graph, inputs_of, op_of
from bnretrofit.layers import LAYER_OPS, kind_of
from bnretrofit.norms import is_batch_norm
from bnretrofit.pages.marks import Mark
from bnretrofit.readers import readers
from bnretrofit.topology import normalises, rearranges

__all__ = ["Follower", "Node", "drawn"]

# Operators that are worth a word where no module of their own calls them.
_TOLD = ("relu", "elu", "silu", "hardswish", "sigmoid", "tanh", "softmax", "pool", "dropout", "upsample", "pad", "mean")


@dataclass(frozen=True, slots=True)
class Follower:
    """What is told beside a node, since nothing else reads the node's result.

    Attributes:
        label: The module's class, or the operator.
        module: The module's name; empty for an operator without one.
        role: "inserted", "planned" or "folded" of this tool's norms, "norm" of the network's own, "step" of all else.
    """

    label: str
    module: str = ""
    role: str = "step"


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the picture.

    Attributes:
        role: "input", "layer", "norm", "step", "join" or "output".
        name: The module's name; for a join or a step, what it does.
        kind: The layer's class.
        inputs: Places, in the picture's order, of the nodes that it reads.
        channels: Of a layer's output; None for anything else.
        state: See `marks.Mark`; empty where nothing is to be said of it.
        note: Why, as a sentence.
        followers: In their order.
        module: The name of its module in the model that is drawn.
    """

    role: str
    name: str
    kind: str = ""
    inputs: tuple[int, ...] = ()
    channels: int | None = None
    state: str = ""
    note: str = ""
    followers: tuple[Follower, ...] = ()
    module: str = ""


def drawn(graph: Graph, marks: Mapping[str, Mark]) -> tuple[Node, ...]:
    """The picture's nodes, in the order in which the model runs them.

    Args:
        graph: The captured model.
        marks: What is to be said of its layers, by their names in it.
    """
    norms = frozenset(mark.norm_name for mark in marks.values() if mark.state == "inserted")
    picture = _Picture(graph, marks, norms, dict(graph.model.named_modules()))
    for node in graph.inputs:
        picture.add(node, Node("input", node.name))
    for node in graph.nodes:
        picture.take(node)
    picture.add(graph.output, Node("output", "output", inputs=picture.sources(graph.output)))
    return tuple(_with_norm_to_be(node, marks) for node in picture.nodes)


@dataclass(slots=True)
class _Picture:
    graph: Graph
    marks: Mapping[str, Mark]
    inserted: frozenset[str]
    modules: Mapping[str, nn.Module]
    nodes: list[Node] = field(default_factory=list)
    places: dict[fx.Node, int] = field(default_factory=dict)
    # The last result of each node: what alone reads it is told beside the node.
    tips: list[fx.Node] = field(default_factory=list)

    def add(self, call: fx.Node, node: Node) -> None:
        self.places[call] = len(self.nodes)
        self.nodes.append(node)
        self.tips.append(call)

    def sources(self, call: fx.Node) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.places[read] for read in inputs_of(call) if read in self.places))

    def take(self, call: fx.Node) -> None:
        if not isinstance(call.meta.get("val"), (Tensor, tuple, list)):
            return
        sources = self.sources(call)
        if op_of(call) in LAYER_OPS:
            self.add(call, self._layer(call, sources))
        elif len(sources) > 1:
            self.add(call, Node("join", _operator(call), inputs=sources))
        elif sources:
            self._follow(call, sources[0])

    def _layer(self, call: fx.Node, sources: tuple[int, ...]) -> Node:
        name = self._layer_name(call)
        kind = kind_of(self.modules[name]) if name in self.modules else None
        mark = self.marks.get(name, Mark("", name))
        channels = None if kind is None else kind.channels(self.modules[name])
        shown = mark.name or "(the model)"
        label = "functional" if kind is None else kind.name
        return Node("layer", shown, label, sources, channels, mark.state, mark.note, module=name)

    def _layer_name(self, call: fx.Node) -> str:
        """As a plan names it: the layer that is called or, where only its weight is read, the weight's or its owner."""
        owner = self.graph.owners.get(call, "")
        if kind_of(self.graph.owner(call)) is not None:
            return owner
        use = self.graph.tensor(call.args[1])
        if use is None:
            return owner
        holder = use.name.rpartition(".")[0]
        return holder if holder in self.marks else use.name

    def _follow(self, call: fx.Node, source: int) -> None:
        label, module = self._told(call), self.graph.owners.get(call, "")
        norm = normalises(self.graph, call)
        if self._is_alone(call, source):
            self.places[call], self.tips[source] = source, call
            self._tell(source, label, module, norm=norm)
        elif label:
            name = module if norm or not _is_shared(self.graph, call) else label
            self.add(call, Node("norm" if norm else "step", name, label, (source,), module=module))
        else:
            self.places[call] = source

    def _is_alone(self, call: fx.Node, source: int) -> bool:
        read = {each for each in inputs_of(call) if each in self.places}
        return read == {self.tips[source]} and len(readers(self.tips[source])) == 1

    def _tell(self, source: int, label: str, module: str, *, norm: bool) -> None:
        node = self.nodes[source]
        last = node.followers[-1] if node.followers else Follower(node.kind, node.module)
        if not label or (last.module == module and last.label == label):
            return
        role = "inserted" if module in self.inserted else "norm" if norm else "step"
        self.nodes[source] = replace(node, followers=(*node.followers, Follower(label, module, role)))

    def _told(self, call: fx.Node) -> str:
        """What a call is to be called; empty for one that is not worth a word."""
        norm = normalises(self.graph, call)
        if rearranges(call) and not norm:
            return ""
        # timm's norms hold an activation, and are norms all the same.
        if not _is_shared(self.graph, call) or (norm and is_batch_norm(self.graph.owner(call))):
            return type(self.graph.owner(call)).__name__
        name = _operator(call)
        return name if norm or any(part in name for part in _TOLD) else ""


def _is_shared(graph: Graph, call: fx.Node) -> bool:
    """Whether a call is made by a module that holds others, or by the model itself: its class does not say what."""
    return not graph.owners.get(call) or next(graph.owner(call).children(), None) is not None


def _operator(call: fx.Node) -> str:
    """What a call does, in a word: "add" for aten.add_.Tensor."""
    parts = op_of(call).split(".")
    name = parts[1] if len(parts) > 1 else parts[0].strip("<>").rpartition(" ")[2]
    return {"scaled_dot_product_attention": "attention"}.get(name.rstrip("_"), name.rstrip("_"))


def _with_norm_to_be(node: Node, marks: Mapping[str, Mark]) -> Node:
    """A layer with the norm that it is to get, or had, among what follows it."""
    mark = marks.get(node.module)
    if node.role != "layer" or mark is None or mark.state not in ("planned", "folded"):
        return node
    added = Follower(mark.norm, "", mark.state)
    return replace(node, followers=_put_after(node.followers, added, mark.after))


def _put_after(followers: Sequence[Follower], added: Follower, module: str) -> tuple[Follower, ...]:
    place = next((number + 1 for number, each in enumerate(followers) if module and each.module == module), 0)
    return (*followers[:place], added, *followers[place:])
