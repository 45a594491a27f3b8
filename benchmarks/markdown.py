"""Tables of the pages."""

from collections.abc import Sequence
from typing import Any

__all__ = ["markdown"]


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of Markdown; a bar in a cell would end it."""
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
