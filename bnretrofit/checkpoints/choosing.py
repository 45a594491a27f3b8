"""What a checkpoint holds besides a state_dict: which of its parts is taken, and what its keys are stripped of.

The order is timm's: averaged weights before the others, then `state_dict`, then `model`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnretrofit.checkpoints.stand_ins import SavedTensor
from bnretrofit.choices import nearest
from bnretrofit.errors import InputRejectedError, UsageError

__all__ = ["Chosen", "StateChoice", "choose", "cleaned"]

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict")
TRAINED = ("state_dict", "model", "model_state_dict", "checkpoint", "net", "network", "weights", "module")
PREFIXES = ("module.", "_orig_mod.")
# torch's AveragedModel counts in it how often it averaged.
AVERAGES = "n_averaged"


@dataclass(frozen=True, slots=True)
class StateChoice:
    """Which part of a checkpoint is meant.

    Attributes:
        key: Dotted keys that lead to it, "checkpoint.model"; None to find it.
        use_ema: Prefer averaged weights.
    """

    key: str | None = None
    use_ema: bool = True


@dataclass(frozen=True, slots=True)
class Chosen:
    """The part that is taken.

    Attributes:
        path: The keys that lead to it; none if it is the whole.
        state: Its entries.
        notes: What was taken and what was left, as sentences.
    """

    path: tuple[str, ...]
    state: Mapping[str, Any]
    notes: tuple[str, ...]


def choose(content: Any, choice: StateChoice, where: str) -> Chosen:
    """Find the state_dict in what was saved.

    Raises:
        UsageError: There is nothing under the key that was named.
        InputRejectedError: It holds no dictionary.
    """
    if not isinstance(content, Mapping):
        raise InputRejectedError(
            "the checkpoint is no state_dict", where=where, why=f"it holds a {_kind(content)}, not names and tensors"
        )
    path = _named(content, choice.key, where) if choice.key is not None else _found(content, choice)
    state = at(content, path)
    if not path:
        return Chosen((), state, ())
    others = [f"'{key}'" for key in (*AVERAGED, *TRAINED) if key != path[-1] and _is_state(at(content, path[:-1]), key)]
    rest = f"; also there: {', '.join(others)}" if others else ""
    return Chosen(path, state, (f"took the tensors under '{'.'.join(path)}' of {Path(where).name}{rest}",))


def at(content: Any, path: tuple[str, ...]) -> Any:
    """What stands under these keys."""
    for key in path:
        content = content[key]
    return content


def _named(content: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    path: tuple[str, ...] = ()
    rest = key
    while rest:
        state = at(content, path)
        # Keys may hold dots themselves, so the longest one that fits is taken.
        fitting = [name for name in state if isinstance(name, str) and (rest == name or rest.startswith(f"{name}."))]
        longest = max(fitting, key=len, default=None)
        if longest is None or not isinstance(state[longest], Mapping):
            known = [name for name in state if _is_state(state, name)]
            hint = nearest(rest, known) or (f"it has {', '.join(known)}" if known else None)
            raise UsageError(f"the checkpoint has no state_dict under '{key}'", where=where, remedy=hint)
        path, rest = (*path, longest), rest[len(longest) + 1 :]
    return path


def _found(content: Mapping[str, Any], choice: StateChoice) -> tuple[str, ...]:
    path: tuple[str, ...] = ()
    # Some frameworks wrap twice; a fourth time would be a riddle.
    for _ in range(3):
        state = at(content, path)
        key = next(
            (key for key in ((*AVERAGED, *TRAINED) if choice.use_ema else TRAINED) if _is_state(state, key)), None
        )
        if key is None:
            break
        path = (*path, key)
    return path


def _is_state(state: Mapping[str, Any], key: Any, depth: int = 3) -> bool:
    """Whether there are tensors under a key, or at most that many known keys deeper."""
    part = state.get(key) if isinstance(key, str) else None
    if not isinstance(part, Mapping):
        return False
    return any(isinstance(value, SavedTensor) for value in part.values()) or any(
        depth and _is_state(part, inner, depth - 1) for inner in TRAINED
    )


def cleaned(state: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A state_dict without the prefixes that wrappers leave, by timm's own hand, and what was stripped."""
    plain = dict(state)
    if not any(key.startswith(PREFIXES) for key in plain):
        return plain, ()
    from timm.models import clean_state_dict

    found = [f"'{prefix}'" for prefix in PREFIXES if any(prefix in key for key in plain)]
    notes = [f"stripped {' and '.join(found)} from its keys"]
    if AVERAGES in plain and not any("." not in key and key != AVERAGES for key in plain):
        del plain[AVERAGES]
        notes.append(f"left out '{AVERAGES}', which counts averagings")
    result = clean_state_dict(plain)
    if len(result) < len(plain):
        raise InputRejectedError("two of the checkpoint's keys are the same but for a prefix", remedy="save one model")
    return result, tuple(notes)


def _kind(content: Any) -> str:
    return "tensor" if hasattr(content, "storage") else type(content).__name__
