"""A plan as text: one table in which module names form a tree, the totals, and the reasons counted."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from .console import counted, table

__all__ = ["plan_text"]

# More skips than this are counted by reason below the table; fewer can be seen in it.
FEW = 3
# The layer or norm a reason names. An apostrophe, as in "the model's output", stands inside a word.
QUOTED = re.compile(r"(?<!\w)'[^']*'(?!\w)")


def plan_text(plan: Any, order: Iterable[str]) -> str:
    """A plan as a user reads it.

    Args:
        plan: The plan.
        order: Names of layers in the order in which the model runs them; what it leaves out comes last.

    Returns:
        The table of all layers, then the totals.
    """
    decisions = {decision.name: decision for decision in (*plan.sites, *plan.skips)}
    parts = []
    if decisions:
        names = [*(name for name in order if name in decisions), *decisions]
        rows = [(label, *_cells(decisions.get(name))) for name, label in _tree(names)]
        parts.append(table(rows, ("layer", "kind", "channels", "gets")))
    parts.append(_totals(plan))
    if len(plan.skips) > FEW:
        parts.append(_reasons(plan.skips))
    return "\n\n".join(parts)


def _tree(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each name and, before it and once, each of its parents; with its last part, indented, as what is shown."""
    branches: dict[str, Any] = {}
    for name in names:
        branch = branches
        for part in name.split("."):
            branch = branch.setdefault(part, {})
    yield from _walked(branches, "", 0)


def _walked(branch: dict[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, str]]:
    for part, below in branch.items():
        # A model that is itself a layer has no name.
        yield f"{prefix}{part}", f"{'  ' * depth}{part or '(the model)'}"
        yield from _walked(below, f"{prefix}{part}.", depth + 1)


def _cells(decision: Any) -> tuple[object, ...]:
    """Kind, channels and fate of a layer; nothing for what only holds layers."""
    if decision is None:
        return "", "", ""
    if hasattr(decision, "reason"):
        return decision.kind, "", f"nothing: {decision.reason}"
    calls = "" if decision.calls == 1 else f", called {decision.calls} x"
    return decision.kind, decision.channels, f"{decision.norm}{calls}"


def _totals(plan: Any) -> str:
    channels = sum(site.channels for site in plan.sites)
    verb = "gets" if len(plan.sites) == 1 else "get"
    left = "is" if len(plan.skips) == 1 else "are"
    taken = f"{counted(len(plan.sites), 'layer')} {verb} a BatchNorm ({counted(channels, 'channel')})"
    return f"{taken}, {len(plan.skips)} {left} left alone."


def _reasons(skips: Iterable[Any]) -> str:
    """How many layers are left alone for which reason, whichever layer or norm the reason names; most first."""
    counts = Counter(QUOTED.sub("'…'", skip.reason) for skip in skips)
    return table([(count, reason) for reason, count in counts.most_common()], ("left alone", "because"))
