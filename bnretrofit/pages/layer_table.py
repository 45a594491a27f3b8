"""A picture's nodes, and what is known of their norms -> the table of layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnretrofit.pages.diagram import Node
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
    "": "as it was",
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
            known = statistics.get(node.norm) or statistics.get(node.module)
            rows[node.module] = Row(
                len(rows) + 1, node.name, node.kind, node.channels, _state(node), node.note, _norm(node), known
            )
    for name, mark in marks.items():
        if name not in rows:
            rows[name] = Row(len(rows) + 1, mark.name, "", None, mark.state, mark.note, mark.norm, statistics.get(name))
    return tuple(rows.values())


def _state(node: Node) -> str:
    if node.role == "norm":
        return "norm"
    return node.state or ("own" if any(each.role == "norm" for each in node.followers) else "")


def _norm(node: Node) -> str:
    if node.role == "norm":
        return node.kind
    return next((each.label for each in node.followers if each.role != "step"), "")
