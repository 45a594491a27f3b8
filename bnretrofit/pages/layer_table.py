"""A picture's nodes, and what is known of their norms -> the table of layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnretrofit.pages.diagram import Follower, Node
from bnretrofit.pages.marks import Mark
from bnretrofit.pages.statistics import LayerStatistics

__all__ = ["STATES", "Row", "layer_table"]

STATES = {
    "planned": "gets a norm",
    "inserted": "norm inserted",
    "folded": "norm folded in",
    "skipped": "left alone",
    "own": "has its own norm",
    "norm": "norm that stands alone",
    "": "no norm",
}
"""What is said of each state."""


@dataclass(frozen=True, slots=True)
class Row:
    """A layer, or a norm that stands alone.

    Attributes:
        number: From 1, in the order in which the model runs them; what it never runs comes last.
        name: As the user knows it.
        kind: Its class.
        channels: Of its output; None where that is not known.
        state: A key of `STATES`.
        note: Why, as a sentence; empty where there is nothing to be said.
        norm: The class of the norm that follows it; empty for none.
        statistics: None where nothing was measured.
    """

    number: int
    name: str
    kind: str
    channels: int | None
    state: str
    note: str
    norm: str
    statistics: LayerStatistics | None

    @property
    def said(self) -> str:
        """The state, in words."""
        return STATES[self.state]


def layer_table(
    nodes: Sequence[Node], marks: Mapping[str, Mark], statistics: Mapping[str, LayerStatistics]
) -> tuple[Row, ...]:
    """The table.

    Args:
        nodes: Of the picture.
        marks: What was decided, by layer name: layers that the model never runs are in no picture.
        statistics: By the names of norms or, where there is none, of layers.
    """
    rows: dict[str, Row] = {}
    for node in nodes:
        if node.role in ("layer", "norm") and node.module not in rows:
            norm = _norm(node)
            known = statistics.get((norm.module if norm is not None else "") or node.module)
            label = "" if norm is None else norm.label
            rows[node.module] = Row(
                len(rows) + 1, node.name, node.kind, node.channels, _state(node, norm), node.note, label, known
            )
        for other in _other_norms(node):
            if other.module not in rows:
                known = statistics.get(other.module)
                rows[other.module] = Row(len(rows) + 1, other.module, other.label, None, "norm", "", other.label, known)
    for name, mark in marks.items():
        if name not in rows:
            rows[name] = Row(len(rows) + 1, mark.name, "", None, mark.state, mark.note, mark.norm, statistics.get(name))
    return tuple(rows.values())


def _norm(node: Node) -> Follower | None:
    """The norm that a layer's row is about: the one that it gets, has or had, or else the network's own after it."""
    if node.role == "norm":
        return Follower(node.kind, node.module, "norm")
    ours = next((each for each in node.followers if each.role in ("planned", "inserted", "folded")), None)
    own = next((each for each in node.followers if each.role == "norm"), None)
    return (ours or own) if node.role == "layer" else None


def _other_norms(node: Node) -> list[Follower]:
    """The network's own norms that no layer's row is about: each has one of its own."""
    told = _norm(node)
    return [each for each in node.followers if each.role == "norm" and each.module and each != told]


def _state(node: Node, norm: Follower | None) -> str:
    if node.role == "norm":
        return "norm"
    return node.state or ("own" if norm is not None and norm.role == "norm" else "")
