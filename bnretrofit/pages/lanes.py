"""Nodes in the order in which they run -> the lane that each is drawn in, as `git log --graph` draws a history.

A node's result has a lane from the node down to the last one that reads it, and no other node stands in its way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Edge", "Lanes", "laid_out"]


@dataclass(frozen=True, slots=True)
class Edge:
    """A line from a node to one that reads it.

    Attributes:
        source: Place of the upper node.
        target: Place of the lower node.
    """

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Lanes:
    """Where everything is.

    Attributes:
        lanes: The lane of each node, from 0.
        edges: All lines; one stays in the lane of its upper node until just above the lower one.
        width: How many lanes there are.
    """

    lanes: tuple[int, ...]
    edges: tuple[Edge, ...]
    width: int


def laid_out(inputs: Sequence[Sequence[int]]) -> Lanes:
    """Give every node a lane.

    Args:
        inputs: For each node, the places of those that it reads, all before it.
    """
    last = list(range(len(inputs)))
    for place, sources in enumerate(inputs):
        for source in sources:
            last[source] = place
    lanes: list[int] = []
    taken: dict[int, int] = {}
    for place, sources in enumerate(inputs):
        # A lane is free for the node that is the last to read what runs in it.
        taken = {lane: holder for lane, holder in taken.items() if last[holder] > place}
        wanted = [lanes[source] for source in sources if lanes[source] not in taken]
        lane = min(wanted, default=next(lane for lane in range(len(taken) + 1) if lane not in taken))
        lanes.append(lane)
        taken[lane] = place
    edges = tuple(Edge(source, place) for place, sources in enumerate(inputs) for source in sources)
    return Lanes(tuple(lanes), edges, max(lanes, default=0) + 1)
