"""Two captured graphs -> which result within the one is the same as which within the other.

Given: a network, and the same one retrofitted or folded. Result: each layer's output, after the norm that the graphs'
comparison drops or absorbs into the layer, paired with its counterpart's, whatever the modules are called.
"""

from itertools import takewhile

from torch import fx, nn

from bnretrofit.canonical import Step, absorbed_steps
from bnretrofit.capture import Graph, op_of
from bnretrofit.layers import LAYER_OPS, kind_of
from bnretrofit.norm_calls import backward_norms
from bnretrofit.norms import is_fixed_norm
from bnretrofit.standing import Normed
from bnretrofit.topology import NORM_OPS
from bnretrofit.trials.lockstep import Point

__all__ = ["Pair", "paired_points"]

Pair = tuple[Point, Point]


def paired_points(a: Graph, b: Graph) -> list[Pair]:
    """The pairs, in an order in which both models run them.

    As long as the graphs have the same operators, these tell; past the first that differs, names do.
    """
    steps = list(zip(absorbed_steps(a), absorbed_steps(b), strict=False))
    alike = list(takewhile(lambda pair: pair[0].op == pair[1].op, steps))
    found = [pair for mine, other in alike if (pair := _pair(a, b, mine, other)) is not None]
    if len(alike) < len(steps):
        found += _by_name(a, b, {pair[0] for pair in found})
    return _in_order(a, b, found)


def _pair(a: Graph, b: Graph, mine: Step, other: Step) -> Pair | None:
    points = _point(a, mine.result), _point(b, other.result)
    for graph, result, point, others in ((a, mine.result, points[0], b), (b, other.result, points[1], a)):
        # timm's norms go on to an activation: what they give is to be held against what is left in their place.
        if point is not None and next(graph.owner(result).children(), None) is not None:
            return (point, point) if point.module in dict(others.model.named_modules()) else None
    return None if points[0] is None or points[1] is None else (points[0], points[1])


def _point(graph: Graph, node: fx.Node) -> Point | None:
    """Which call of which module gives a result; None where that is no layer's or norm's own."""
    if not _is_layer_or_norm(graph, node):
        return None
    name, op = graph.owners[node], op_of(node)
    calls = [call for call in graph.nodes if graph.owners[call] == name and op_of(call) == op]
    return Point(name, calls.index(node))


def _is_layer_or_norm(graph: Graph, node: fx.Node) -> bool:
    owner = graph.owner(node)
    if op_of(node) in LAYER_OPS:
        return kind_of(owner) is not None
    stock = is_fixed_norm(owner) or isinstance(owner, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm))
    return stock and op_of(node).startswith(NORM_OPS)


def _by_name(a: Graph, b: Graph, known: set[Point]) -> list[Pair]:
    """What is called the same, where the graphs part: each layer with the norm after it, if it has one."""
    others, norms = dict(b.model.named_modules()), {call: norm for norm, call in backward_norms(a).items()}
    found = []
    for node in a.nodes:
        if op_of(node) in LAYER_OPS and (point := _point(a, norms.get(node, node))) is not None:
            name = _standing_for(a, point.module)
            if point not in known and name in others:
                found.append((Point(name, point.call), Point(name, point.call)))
    return found


def _standing_for(graph: Graph, name: str) -> str:
    """The name of what stands in a layer's place, with the norm that was inserted: the layer's own elsewhere."""
    holder = name.rpartition(".")[0]
    return holder if isinstance(graph.model.get_submodule(holder), Normed) else name


def _in_order(a: Graph, b: Graph, pairs: list[Pair]) -> list[Pair]:
    """The pairs as the first model runs them, without those that the second runs in another order."""
    places = tuple(_places(graph) for graph in (a, b))
    kept: list[Pair] = []
    reached = -1
    for pair in sorted(dict.fromkeys(pairs), key=lambda pair: places[0][pair[0]]):
        place = places[1].get(pair[1], reached + 1)
        if place > reached:
            kept.append(pair)
            reached = place
    return kept


def _places(graph: Graph) -> dict[Point, int]:
    """Where each point's result stands in the graph; of a layer with its norm, where the norm's does."""
    places: dict[Point, int] = {}
    for number, node in enumerate(graph.nodes):
        if (point := _point(graph, node)) is not None:
            places[point] = places[Point(_standing_for(graph, point.module), point.call)] = number
    return places
