"""A file's bnretrofit header -> what it says, checked before anything is made of it."""

from dataclasses import dataclass, field
from typing import Any

from bnretrofit.checkpoints import Checkpoint
from bnretrofit.errors import InputRejectedError
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.sites import Plan

__all__ = ["HEADER_SCHEMA", "STATE_STAGE", "Changes", "Written", "what_is_written"]

HEADER_SCHEMA = 1
STATE_STAGE = "state of a run"
STAGES = ("retrofitted", "finetuned", "folded")


@dataclass(frozen=True, slots=True)
class Changes:
    """What folding changed in an architecture.

    Attributes:
        identities: Norms that became nn.Identity, by module name.
        biases: Layers that gained a bias.
        padded: Convolutions that pad with a value per channel instead of zeros.
    """

    identities: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    padded: tuple[str, ...] = ()

    def to_json(self) -> dict[str, list[str]]:
        """As a JSON document."""
        return {"identities": list(self.identities), "biases": list(self.biases), "padded": list(self.padded)}


@dataclass(frozen=True, slots=True)
class Written:
    """What a header says: see `workflows.opening.Opened` for the meaning of each."""

    stage: str
    model: str
    num_classes: int | None
    preprocessing: Preprocessing
    plan: Plan | None
    changes: Changes = field(default_factory=Changes)
    submodule: str = ""


def what_is_written(checkpoint: Checkpoint) -> Written | None:
    """Read a checkpoint's header; None if it has none.

    Raises:
        InputRejectedError: The header is damaged, or of a version that this one does not read; or it is a run's state.
    """
    header = checkpoint.header
    if header is None:
        return None
    if header.get("stage") == STATE_STAGE:
        raise InputRejectedError(
            "the file is the state of a run, not a checkpoint",
            where=str(checkpoint.path),
            why="it holds what --resume goes on from",
            remedy=f"pass best.safetensors, which lies beside it, or the folder {checkpoint.path.parent}",
        )
    try:
        if header["schema_version"] != HEADER_SCHEMA:
            raise ValueError(f"schema version {header['schema_version']!r}, where this version reads {HEADER_SCHEMA}")
        stage, model, num_classes = header["stage"], header["model"], header["num_classes"]
        if stage not in STAGES or not isinstance(model, str) or not isinstance(num_classes, (int, type(None))):
            raise ValueError("stage, model or num_classes is not what it must be")
        return Written(
            stage,
            model,
            num_classes,
            Preprocessing.from_json(header["preprocessing"]),
            None if header["plan"] is None else Plan.from_json(header["plan"]),
            Changes(*(_names(header["folded"][key]) for key in ("identities", "biases", "padded"))),
            _text(header["submodule"]),
        )
    except (KeyError, TypeError, ValueError, InputRejectedError) as error:
        why = str(error) if isinstance(error, InputRejectedError) else f"{type(error).__name__}: {error}"
        raise InputRejectedError(
            "the file's bnretrofit header is damaged", where=str(checkpoint.path), why=why
        ) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a name is no text")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("a list of module names is something else")
    return tuple(value)
