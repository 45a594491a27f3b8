"""Images that cannot be read: counted once each, listed, and capped."""

from dataclasses import dataclass
from typing import Any

from bnretrofit.errors import InputRejectedError

__all__ = ["BadImage", "BadImages", "bad_record"]

# A header is read whole whenever its file is: of a thousand bad images it lists some, and says how many there were.
LISTED = 20


@dataclass(frozen=True, slots=True)
class BadImage:
    """An image that was left out.

    Attributes:
        name: What it is called in what is kept: no folder of this machine is in it.
        where: Where it is.
        reason: Why it cannot be read.
    """

    name: str
    where: str
    reason: str


class BadImages:
    """What was left out, and how much of it is allowed.

    Args:
        allowed: How many files may be unreadable before an error.
        others: Files beside the images that are none by their names; they count too.
    """

    def __init__(self, allowed: int, others: tuple[str, ...] = ()) -> None:
        self.allowed = allowed
        self.others = others
        self._found: dict[str, BadImage] = {}

    def note(self, bad: BadImage) -> None:
        """Count an image that is left out; one that was left out before is not counted again.

        Raises:
            InputRejectedError: It is one too many.
        """
        self._found.setdefault(bad.where, bad)
        count = len(self._found) + len(self.others)
        if count > self.allowed:
            raise InputRejectedError(
                "an image cannot be read" if count == 1 else f"{count} files are no readable images, this one the last",
                where=bad.where,
                why=bad.reason,
                remedy="remove it, or allow more with --max-bad-images",
            )

    def listed(self) -> list[str]:
        """Each with its reason, in the order of names."""
        others = (f"{name}: no image by its name" for name in self.others)
        return sorted([*(f"{bad.name}: {bad.reason}" for bad in self._found.values()), *others])


def bad_record(listed: list[str]) -> dict[str, Any]:
    """How many were left out, and the first of them, as a JSON document."""
    return {"bad_images": listed[:LISTED], "bad_images_total": len(listed)}
