"""A picture's nodes -> where every dot, line and word of it stands, in pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

from bnretrofit.pages.diagram import Node
from bnretrofit.pages.lanes import Lanes, laid_out
from bnretrofit.pages.layer_table import STATES

__all__ = ["Drawing", "DrawnRow", "Word", "drawing_of"]

ROW, TOP, LEFT, GAP = 26, 22, 14, 10
# Lanes are narrow where there are many: a DenseNet has fifty.
LANE, LANES_WIDTH = 16, 200
# Of a fixed-pitch font, to a pixel: what a viewer has instead may be wider by a little.
CHARACTER = 7.3
LONGEST = 44
LEGEND = 150
"""Of each state, where a picture stands alone."""


@dataclass(frozen=True, slots=True)
class Word:
    """A text beside a node.

    Attributes:
        x: Where it begins.
        text: What it says.
        role: "name", "kind", or a `diagram.Follower.role`.
        width: Of the text.
    """

    x: float
    text: str
    role: str
    width: float


@dataclass(frozen=True, slots=True)
class DrawnRow:
    """A node.

    Attributes:
        x: Of its dot.
        y: Of its row's middle.
        role: See `diagram.Node`.
        state: See `diagram.Node`.
        words: In their order.
        sentence: All that is known of it.
    """

    x: float
    y: float
    role: str
    state: str
    words: tuple[Word, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """All of it.

    Attributes:
        rows: In the order in which the model runs them.
        paths: Lines, as the `d` of an SVG path.
        width: In pixels.
        height: In pixels.
        states: Those that occur, for a legend.
    """

    rows: tuple[DrawnRow, ...]
    paths: tuple[str, ...]
    width: float
    height: float
    states: tuple[str, ...]


def drawing_of(nodes: Sequence[Node]) -> Drawing:
    """Lay out a picture, from the top down."""
    lanes = laid_out([node.inputs for node in nodes])
    step = min(LANE, LANES_WIDTH / lanes.width)
    edge = LEFT + step * (lanes.width - 1) + GAP + 6
    rows = tuple(_row(node, place, LEFT + step * lanes.lanes[place], edge) for place, node in enumerate(nodes))
    width = max((word.x + word.width for row in rows for word in row.words), default=edge) + LEFT
    states = tuple(dict.fromkeys(node.state for node in nodes if node.state))
    width = max(width, LEFT + LEGEND * len(states))
    return Drawing(rows, _paths(lanes, step), width, TOP + ROW * len(nodes), states)


def _row(node: Node, place: int, x: float, edge: float) -> DrawnRow:
    texts = [(_shortened(node.name), "name")]
    if node.kind and node.kind != node.name:
        texts.append((node.kind if node.channels is None else f"{node.kind} {node.channels}", "kind"))
    texts += [(each.label, each.role) for each in node.followers]
    words: list[Word] = []
    for text, role in texts:
        width = CHARACTER * len(text) + (12 if role in ("inserted", "planned", "folded", "norm") else 0)
        words.append(Word(edge, text, role, width))
        edge += width + GAP
    return DrawnRow(x, _y(place), node.role, node.state, tuple(words), _sentence(node))


def _sentence(node: Node) -> str:
    what = node.name if not node.kind or node.kind == node.name else f"{node.name}: {node.kind}"
    what += "" if node.channels is None else f", {node.channels} channels"
    if node.state:
        norm = next((each.label for each in node.followers if each.role == node.state), "")
        what += f". {STATES[node.state].capitalize()}: {'; '.join(filter(None, (norm, node.note)))}"
    then = [each.label for each in node.followers if each.role in ("norm", "step")]
    return f"{what}. Then {', '.join(then)}" if then else what


def _shortened(name: str) -> str:
    if len(name) <= LONGEST:
        return name
    half = (LONGEST - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _paths(lanes: Lanes, step: float) -> tuple[str, ...]:
    """A line goes down in the lane of what is read, and turns aside just above what reads it."""
    found = []
    for edge in lanes.edges:
        start, end = (LEFT + step * lanes.lanes[place] for place in (edge.source, edge.target))
        top, bottom = _y(edge.source), _y(edge.target)
        turn = bottom - ROW
        bend = f"C{start:g} {bottom - ROW / 2:g} {end:g} {bottom - ROW / 2:g} {end:g} {bottom:g}"
        found.append(f"M{start:g} {top:g}V{turn:g}{bend}" if start != end else f"M{start:g} {top:g}V{bottom:g}")
    # The shared part of lines from one node is drawn once for each: equal lines are one.
    return tuple(dict.fromkeys(found))


def _y(place: int) -> float:
    return TOP + ROW * place
