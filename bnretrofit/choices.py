"""What a user chose: which layers by name and family, and where the norm goes."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bnretrofit.errors import UsageError
from bnretrofit.layers import KINDS

__all__ = ["Choices", "nearest"]

FAMILIES = ("conv", "dense")
PLACEMENTS = ("pre", "post")


def nearest(name: str, known: Sequence[str], count: int = 3) -> str:
    """Ask whether a nearby name was meant; nothing if none is near."""
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.4)
    return f"did you mean {', '.join(close)}?" if close else ""


@dataclass(frozen=True, slots=True)
class Choices:
    """The choices of `make_plan`, checked."""

    include: tuple[str, ...] | None
    exclude: tuple[str, ...]
    layers: tuple[str, ...]

    @classmethod
    def checked(
        cls, include: Sequence[str] | None, exclude: Sequence[str] | None, layers: Sequence[str], placement: str
    ) -> "Choices":
        """The choices, or an error that says which one is unknown.

        Raises:
            UsageError: A family or placement that does not exist; an empty list of patterns.
        """
        families = (layers,) if isinstance(layers, str) else tuple(layers)
        if unknown := [family for family in families if family not in FAMILIES]:
            raise UsageError(f"unknown layer family '{unknown[0]}'", remedy=f"choose from {', '.join(FAMILIES)}")
        if not families:
            raise UsageError("no layer family is chosen", remedy=f"choose from {', '.join(FAMILIES)}")
        if placement not in PLACEMENTS:
            raise UsageError(f"unknown placement '{placement}'", remedy=f"choose from {', '.join(PLACEMENTS)}")
        return cls(_patterns(include) or None, _patterns(exclude), families)

    def check_patterns(self, names: list[str]) -> None:
        """Refuse a pattern that matches no layer.

        Raises:
            UsageError: Names the pattern and the nearest layer names.
        """
        for pattern in (*(self.include or ()), *self.exclude):
            if not any(fnmatchcase(name, pattern) for name in names):
                inside = any(name.startswith(f"{pattern}.") for name in names)
                hint = f"'{pattern}.*' matches the layers inside it" if inside else nearest(pattern, names)
                raise UsageError(f"the pattern '{pattern}' matches no conv or dense layer", remedy=hint or None)

    def names(self, name: str) -> bool:
        """Whether a layer is included by its full name."""
        return name in (self.include or ())

    def reason_against(self, name: str, kind: str) -> str | None:
        """Why the choices leave a layer out; None if they take it."""
        family = next(row.family for row in KINDS if row.name == kind)
        if family not in self.layers:
            return f"it is a {family} layer, and only {' and '.join(self.layers)} layers were asked for"
        if self.include is not None and not any(fnmatchcase(name, pattern) for pattern in self.include):
            return "no --include pattern matches it"
        pattern = next((pattern for pattern in self.exclude if fnmatchcase(name, pattern)), None)
        return None if pattern is None else f"it is excluded by the pattern '{pattern}'"


def _patterns(given: Sequence[str] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())
