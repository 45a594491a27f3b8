"""A seed -> a damaged checkpoint: always the same one, so each can be had again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from benchmarks.reliability_bases import Base
from benchmarks.reliability_edits import EDITS, dice, flip
from benchmarks.reliability_headers import header_edit, index_edit
from benchmarks.reliability_pickles import stream_edit, zip_edit
from benchmarks.reliability_zips import field_edit, member_edit
from bnretrofit.checkpoints.headers import SEAL

__all__ = ["Damaged", "damaged", "flipped"]

Edit = Callable[[bytes, Random], bytes]


@dataclass(frozen=True, slots=True)
class Damaged:
    """A checkpoint with one of its files changed.

    Attributes:
        base: What it was.
        file: The file that was changed.
        data: What is in it now.
        edit: How it was changed, in a word.
        level: "bytes", "header", "zip" or "pickle".
    """

    base: Base
    file: str
    data: bytes
    edit: str
    level: str

    @property
    def sealed(self) -> bool:
        """Whether the file bears checksums that were not made right again, so that no change may pass."""
        if self.base.files[self.file].startswith(b"PK"):
            return self.level == "bytes" or self.edit == field_edit.__name__
        # Without its seal a file of ours is one that another tool has saved again.
        return "own" in self.base.name and SEAL in self.data[: 8 + int.from_bytes(self.data[:8], "little")]


def damaged(seed: int, bases: Mapping[str, Base]) -> Damaged:
    """The checkpoint of a seed."""
    draw = dice(seed)
    base = draw.choice(list(bases.values()))
    file, data = draw.choice(list(base.files.items()))
    # A third knows nothing of the format, two thirds do.
    level, edit = draw.choice(list(_knowing(data).items())) if draw.random() < 2 / 3 else ("bytes", None)
    chosen = edit or draw.choice(list(EDITS.values()))
    return Damaged(base, file, chosen(data, draw), chosen.__name__, level.partition(" ")[0])


def _knowing(data: bytes) -> dict[str, Edit]:
    if data.startswith(b"PK"):
        return {"zip fields": field_edit, "zip members": member_edit, "pickle": zip_edit, "pickle again": zip_edit}
    if data.startswith(b"{"):
        return {"header": index_edit}
    return {"pickle": stream_edit} if data.startswith(b"\x80\x02") else {"header": header_edit}


def flipped(seed: int, bases: Mapping[str, Base]) -> Damaged:
    """A checkpoint with one bit flipped."""
    draw = dice(seed)
    base = draw.choice(list(bases.values()))
    ((file, data),) = base.files.items()
    return Damaged(base, file, flip(data, draw), flip.__name__, "bytes")
