"""What becomes of damaged checkpoints: how they are read by us, and by readers that admit anything."""

import argparse
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.reliability_bases import Base, bases, same
from benchmarks.reliability_mutations import Damaged, damaged, flipped
from benchmarks.reliability_watching import BOUND, HARMFUL, Work, out_of_memory
from benchmarks.reliability_workers import Finding, findings
from bnretrofit import RetrofitError, checkpoints

__all__ = ["Tally", "admitted", "flips", "mutations", "outcome", "plain", "replay", "work"]

Reader = Callable[[Path], Mapping[str, Tensor]]
Case = Callable[[int, Mapping[str, Base]], Damaged]
FLIPPED = ("own safetensors", "own pth", "zip", "zip, tied", "zip, training")


def admitted(path: Path) -> Mapping[str, Tensor]:
    """Ours."""
    found = checkpoints.read(path)
    found.digest.result()
    return found.tensors


def plain(path: Path) -> Mapping[str, Tensor]:
    """As most people read a file: by its name, and what it gives is what it held."""
    if path.suffix == ".safetensors":
        return load_file(path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, weights_only=True)
    found: Mapping[str, Tensor] = content.get("state_dict", content)
    return found


def outcome(read: Reader, path: Path, wanted: Mapping[str, Tensor]) -> tuple[str, str]:
    """How a file is read: "refused", "same", "other" tensors, "memory", or a "foreign" exception."""
    try:
        found = read(path)
    except RetrofitError as error:
        # The refusal may be the end of an attempt to do what was asked.
        return ("memory" if out_of_memory(error) else "refused"), str(error)
    return ("same" if same(found, wanted) else "other"), ""


def work(case: Case, read: Reader, known: Mapping[str, Base]) -> Callable[[Path], Work]:
    """What a worker does: write the case of a seed, and read it."""

    def begin(folder: Path) -> Work:
        for number, base in enumerate(known.values()):
            (folder / str(number)).mkdir()
            for name, data in base.files.items():
                (folder / str(number) / name).write_bytes(data)
        places = {name: folder / str(number) for number, name in enumerate(known)}
        for name, base in known.items():
            # What is done once only is not to be taken for the first case's; and each base must be read at all.
            assert outcome(admitted, places[name] / next(iter(base.files)), base.tensors)[0] == "same", name

        def one(seed: int) -> tuple[str, str]:
            found = case(seed, known)
            place = places[found.base.name]
            changed = place / found.file
            # A new file: tensors of the last case may still be mapped to the old one.
            changed.unlink(missing_ok=True)
            changed.write_bytes(found.data)
            first = changed if read is plain and changed.suffix != ".json" else place / next(iter(found.base.files))
            wanted = found.base.tensors
            try:
                kind, note = outcome(read, first, wanted)
                return ("silent" if kind == "other" and found.sealed else kind), note
            finally:
                changed.unlink()
                changed.write_bytes(found.base.files[found.file])

        return one

    return begin


def mutations(count: int, jobs: int) -> dict[str, Any]:
    """Checkpoints with anything changed: read, or refused with our own error, in bounded time and memory."""
    known = bases()
    single = {name: base for name, base in known.items() if len(base.files) == 1}
    ours = Tally(findings(work(damaged, admitted, known), range(count), jobs=jobs))
    theirs = Tally(findings(work(damaged, plain, single), range(max(count // 10, 1)), jobs=jobs))
    return {
        "tried": ours.tried,
        "faults": ours.total(HARMFUL),
        "bytes": sum(len(data) for base in known.values() for data in base.files.values()),
        **ours.document(),
        "control": {**theirs.document(), "tried": theirs.tried, "faults": theirs.total((*HARMFUL, "other"))},
        "planted": planted(jobs),
    }


def planted(jobs: int) -> dict[str, int]:
    """Faults that the workers must see."""
    ways: tuple[Callable[[], object], ...] = (
        lambda: os.kill(os.getpid(), signal.SIGSEGV),
        lambda: time.sleep(60),
        lambda: b"x" * (BOUND + (8 << 20)),
        lambda: bytearray(1 << 40),
        lambda: os.environ["NO_SUCH_NAME"],
    )

    def one(number: int) -> tuple[str, str]:
        ways[number]()
        return "same", ""

    seen = Tally(findings(lambda _: one, range(len(ways)), jobs=jobs, seconds=0.75))
    return {"tried": len(ways), "faults": seen.total(HARMFUL)}


def flips(count: int, jobs: int) -> dict[str, Any]:
    """One bit flipped in a file that bears checksums: refused, or nothing lost."""
    known = {name: base for name, base in bases().items() if name in FLIPPED}
    ours = Tally(findings(work(flipped, admitted, known), range(count), jobs=jobs))
    theirs = Tally(findings(work(flipped, plain, known), range(max(count // 2, 1)), jobs=jobs))
    return {
        "tried": ours.tried,
        "faults": ours.total(HARMFUL),
        **ours.document(),
        "control": {**theirs.document(), "tried": theirs.tried, "faults": theirs.total(("silent",))},
    }


class Tally:
    """What came of many cases, counted.

    Args:
        found: What came of each.
        fine: The kinds of which no example is kept; by default, all that are not harmful.
    """

    def __init__(self, found: Iterable[Finding], fine: Container[str] | None = None) -> None:
        self.kinds: Counter[str] = Counter()
        self._numbers: dict[str, set[int]] = {}
        self.examples: dict[str, list[str]] = {}
        self.most = 0
        for finding in found:
            self.kinds[finding.kind] += 1
            self._numbers.setdefault(finding.kind, set()).add(finding.number)
            self.most = max(self.most, finding.taken)
            if finding.kind in HARMFUL if fine is None else finding.kind not in fine:
                self.examples.setdefault(finding.kind, []).append(f"{finding.number}: {finding.note}")

    @property
    def tried(self) -> int:
        return self.kinds.total()

    def numbers(self, kind: str) -> set[int]:
        """The cases of which this came."""
        return self._numbers.get(kind, set())

    def total(self, kinds: Iterable[str]) -> int:
        return sum(self.kinds[kind] for kind in kinds)

    def beyond(self, good: Iterable[str]) -> dict[str, Any]:
        """The record of a section in which all but these kinds are faults."""
        return {"tried": self.tried, "faults": self.tried - self.total(good), **self.document()}

    def document(self) -> dict[str, Any]:
        examples = {kind: notes[:10] for kind, notes in self.examples.items()}
        return {"kinds": dict(self.kinds), "examples": examples, "most_mib": self.most >> 20}


def replay(seed: int, section: str, folder: Path) -> str:
    """Write the case of a seed, and say what it is and what comes of it."""
    found = (flipped if section == "flips" else damaged)(
        seed, {name: base for name, base in bases().items() if section != "flips" or name in FLIPPED}
    )
    for name, data in {**found.base.files, found.file: found.data}.items():
        (folder / name).write_bytes(data)
    try:
        what = outcome(admitted, folder / next(iter(found.base.files)), found.base.tensors)
    except BaseException as error:  # noqa: BLE001 - it is what the case is there to show
        what = "foreign", f"{type(error).__name__}: {error}"
    return f"{found.base.name}, {found.file}: {found.level}, {found.edit} -> {what[0]} {what[1]}"
