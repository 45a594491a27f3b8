"""The one door for checkpoints: a file is admitted, then read, and nothing from it is run."""

import argparse
import hashlib
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bnretrofit.checkpoints.archives import check_contents, open_archive
from bnretrofit.checkpoints.choosing import Chosen, StateChoice, at, choose, cleaned
from bnretrofit.checkpoints.digests import file_digest, in_background, own_digest
from bnretrofit.checkpoints.headers import tensors_header
from bnretrofit.checkpoints.kinds import SAVE_THE_STATE, kind_of_file
from bnretrofit.checkpoints.outlines import Outline, outline_of
from bnretrofit.checkpoints.places import Place, place_of
from bnretrofit.checkpoints.stand_ins import Refused
from bnretrofit.checkpoints.states import State, changed, states_of
from bnretrofit.checkpoints.streams import stream_outline
from bnretrofit.checkpoints.tensors import check_outlines, check_values
from bnretrofit.errors import InputRejectedError, RetrofitError

__all__ = ["Checkpoint", "read"]

ATTEMPTS = 20
"""How often a checkpoint may be replaced while it is read."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as it was read.

    Attributes:
        path: The file; of a sharded one, its index.
        tensors: Its tensors by key.
        header: What bnretrofit wrote about it; None for a file from elsewhere.
        digest: Its sha256, being computed while the file is put to use; of a sharded one, that of the list of its
            files as sha256sum prints it.
        notes: What was taken from the file, and what its keys were stripped of.
    """

    path: Path
    tensors: dict[str, Tensor]
    header: dict[str, Any] | None
    digest: "Future[str]"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Content:
    """One file's tensors, and what goes with them: see `Checkpoint`."""

    tensors: dict[str, Tensor]
    header: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def read(path: Path, *, state_dict_key: str | None = None, use_ema: bool = True) -> Checkpoint:
    """Read a checkpoint, told apart by its content: safetensors, or what torch.save writes.

    Its layout is judged before anything in it is opened: lengths, names, checksums, the operations of its pickle, the
    shapes it claims. Pickles are then read with `weights_only`, always.

    Args:
        path: The file; or the index of a sharded one; or a folder that holds one of them, such as a run's.
        state_dict_key: Dotted keys of the part that is meant, in a training checkpoint; None to find it.
        use_ema: Prefer averaged weights, where there are any.

    Returns:
        Its tensors, on the CPU, stripped of prefixes that wrappers leave; safetensors are mapped into memory.

    Raises:
        InputRejectedError: The file is missing, damaged, of another kind, built to do harm, or holds values that are
            not finite; or it is being replaced again and again.
        UsageError: There is no such key in it.
    """
    choice = StateChoice(state_dict_key, use_ema)
    # A file is opened several times: what is told of it is of one and the same, also while another takes its place.
    for _ in range(ATTEMPTS):
        place = place_of(Path(path))
        states = states_of(place)
        try:
            found = _read(place, choice, states)
        except (RetrofitError, OSError) as error:
            if states_of(place) == states:
                if isinstance(error, RetrofitError):
                    raise
                why = error.strerror or str(error)
                raise InputRejectedError("the checkpoint cannot be read", where=str(place.path), why=why) from error
        else:
            if states_of(place) == states:
                return found
    raise changed(place.path)


def _read(place: Place, choice: StateChoice, states: Mapping[Path, State | None]) -> Checkpoint:
    kinds = [kind_of_file(file) for file in place.files]
    digest = _started_digest(place, states)
    contents = [_read_file(file, kind, choice) for file, kind in zip(place.files, kinds, strict=True)]
    tensors = _joined(place, contents)
    tensors, stripped = cleaned(tensors)
    for name, tensor in tensors.items():
        check_values(name, tensor, str(place.path))
    header = contents[0].header if len(contents) == 1 else None
    notes = (*place.notes, *dict.fromkeys(note for content in contents for note in content.notes), *stripped)
    return Checkpoint(place.path, tensors, header, digest, notes)


def _started_digest(place: Place, states: Mapping[Path, State | None]) -> "Future[str]":
    if place.index is None:
        (path,) = place.files
        # Opened now: by the time its turn comes, another file may have taken its place.
        file = path.open("rb", buffering=0)
        return in_background(lambda: file_digest(path, states[path], file))
    return in_background(lambda: _digest_of_shards(states))


def _digest_of_shards(states: Mapping[Path, State | None]) -> str:
    lines = "".join(f"{file_digest(file, states[file])}  {file.name}\n" for file in states)
    return hashlib.sha256(lines.encode()).hexdigest()


def _joined(place: Place, contents: list[_Content]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file, content in zip(place.files, contents, strict=True):
        if place.keys is not None and set(content.tensors) != place.keys[file.name]:
            raise InputRejectedError("a shard holds other tensors than its index says", where=str(file))
        tensors |= content.tensors
    return tensors


def _read_file(path: Path, kind: str, choice: StateChoice) -> _Content:
    if kind == "safetensors":
        return _read_safetensors(path)
    checked = in_background(lambda: check_contents(path)) if kind == "zip" else None
    content = _read_pickle(path, kind, choice)
    if checked is not None:
        checked.result()
    return content


def _read_safetensors(path: Path) -> _Content:
    header = tensors_header(path)
    digest = None if header.digest is None else in_background(lambda: own_digest(path, header))
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in header.tensors}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputRejectedError("the safetensors file is damaged", where=str(path), why=str(error)) from error
    if digest is not None and digest.result() != header.digest:
        raise InputRejectedError(
            "the file is not as bnretrofit wrote it",
            where=str(path),
            why="its content does not match the digest that it bears",
            remedy="make it again, or fetch it again",
        )
    notes = (f"{path.name} was saved again by another tool since bnretrofit wrote it",) if header.resaved else ()
    return _Content(tensors, header.written, notes)


def _read_pickle(path: Path, kind: str, choice: StateChoice) -> _Content:
    chosen = choose(_outline(path, kind).content, choice, str(path))
    check_outlines(chosen.state, path.stat().st_size, str(path))
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
        state = at(content, chosen.path)
    except Exception as error:
        # torch's own message goes on to advise loading the file without weights_only: that advice is not handed on.
        raise InputRejectedError(
            "the checkpoint cannot be read",
            where=str(path),
            why=f"torch.load raised {type(error).__name__}",
            remedy=f"nothing but tensors is ever loaded; {SAVE_THE_STATE}",
        ) from error
    return _Content(_tensors(state, chosen, path), notes=chosen.notes)


def _tensors(state: Any, chosen: Chosen, path: Path) -> dict[str, Tensor]:
    """What torch read, held against the outline by which it was admitted."""
    if not isinstance(state, dict) or dict.keys(state) != dict.keys(dict(chosen.state)):
        raise InputRejectedError("the checkpoint changed while it was read", where=str(path))
    found = {}
    for name, tensor in dict.items(state):
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != chosen.state[name].shape:
            raise InputRejectedError("the checkpoint changed while it was read", where=f"{path}: {name}")
        # Without attributes that a file may have given it.
        found[str(name)] = Tensor.detach(tensor)
    return found


def _outline(path: Path, kind: str) -> Outline:
    """The outline of a pickle, with the storages it names held against the data that are there."""
    try:
        if kind == "stream":
            return stream_outline(path)
        archive = open_archive(path)
        outline = outline_of(archive.pickle)
        for storage in outline.storages:
            if archive.records.get(storage.key) != storage.numel * storage.dtype.itemsize:
                raise Refused(f"its data '{storage.key}' are missing, or of another length than its pickle says")
    except InputRejectedError:
        raise
    except Refused as found:
        raise InputRejectedError(
            "the checkpoint is not admitted",
            where=str(path),
            why=str(found),
            remedy=f"nothing but tensors is ever loaded; {SAVE_THE_STATE}",
        ) from found
    except Exception as error:
        # A damaged pickle may raise anything.
        raise InputRejectedError(
            "the checkpoint is damaged",
            where=str(path),
            why=f"its pickle cannot be followed ({type(error).__name__})",
            remedy="fetch it again; it may have been cut short",
        ) from error
    return outline
