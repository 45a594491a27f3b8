"""The one family of errors: what went wrong, where, why, and what to do about it."""

from typing import Any

__all__ = [
    "InexactIdentityWarning",
    "InputRejectedError",
    "ResourceError",
    "RetrofitError",
    "SplitBatchWarning",
    "TrainingDivergedError",
    "UsageError",
    "VerificationError",
]


class RetrofitError(Exception):
    """Everything this package refuses to do.

    Args:
        what: What could not be done, as a sentence without its full stop.
        where: The file, module or tensor it concerns.
        why: The cause.
        remedy: What the user can do about it.
    """

    exit_code = 4

    def __init__(
        self, what: str, *, where: str | None = None, why: str | None = None, remedy: str | None = None
    ) -> None:
        self.what = what
        self.where = where
        self.why = why
        self.remedy = remedy
        # Passing all four keeps the error picklable across worker processes.
        super().__init__(what, where, why, remedy)

    def __reduce__(self) -> tuple[object, ...]:
        # With what was said of it since.
        return _rebuild, (type(self), self.what, self.where, self.why, self.remedy), vars(self)

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        if self.why is not None:
            text += f": {self.why}"
        if self.remedy is not None:
            text += f". {self.remedy[:1].upper()}{self.remedy[1:]}"
        return text


class InexactIdentityWarning(UserWarning):
    """The device's kernel admits no exact identity, so outputs move by its rounding; verify says by how much."""


class SplitBatchWarning(UserWarning):
    """A batch did not fit in memory and was run in parts, which takes longer and changes no statistics."""


class UsageError(RetrofitError):
    """The request itself is wrong: an unknown name, a pattern that matches nothing.

    Attributes:
        settings: The settings of training that it speaks of by their names in Python; others may know them by others.
    """

    exit_code = 2
    settings: tuple[str, ...] = ()

    def of(self, *settings: str) -> "UsageError":
        """The same error, which says what settings of training it speaks of."""
        self.settings = settings
        return self


class VerificationError(RetrofitError):
    """Two models that must be the same function are not.

    Attributes:
        report: What verification found, as a JSON document; None where none was made.
    """

    exit_code = 3
    report: dict[str, Any] | None = None


class InputRejectedError(RetrofitError):
    """A file, a model or an image that cannot be worked with."""

    exit_code = 4


class ResourceError(RetrofitError):
    """Memory or disk ran out."""

    exit_code = 5


class TrainingDivergedError(RetrofitError):
    """A loss or a weight is not finite any more; what the run kept before is good."""

    exit_code = 6


def _rebuild(
    kind: type[RetrofitError], what: str, where: str | None, why: str | None, remedy: str | None
) -> RetrofitError:
    return kind(what, where=where, why=why, remedy=remedy)
