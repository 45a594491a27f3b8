"""Edits of bytes that know nothing of a format: flips, overwritten runs, cut and lengthened files, odd integers."""

import random
from collections.abc import Callable

__all__ = ["EDITS", "NUMBERS", "dice", "flip"]

Edit = Callable[[bytes, random.Random], bytes]

NUMBERS = (
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**64 - 1,
)
"""Lengths, offsets and counts that break arithmetic."""


def dice(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - chooses what to break, guards nothing


def flip(data: bytes, draw: random.Random) -> bytes:
    """One bit."""
    changed = bytearray(data)
    changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def flips(data: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.randint(2, 16)):
        data = flip(data, draw)
    return data


def overwrite(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    length = draw.choice((1, 1, 2, 4, 8, 32))
    run = draw.choice((draw.randbytes(length), bytes(length), b"\xff" * length, b"9" * length))
    return data[:start] + run[: len(data) - start] + data[start + length :]


def truncate(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.choice((draw.randrange(len(data)), len(data) - draw.randint(1, 64)))]


def append(data: bytes, draw: random.Random) -> bytes:
    more = (draw.randbytes(draw.randint(1, 64)), bytes(draw.randint(1, 4096)), data, data[-22:])
    return data + draw.choice(more)


def prepend(data: bytes, draw: random.Random) -> bytes:
    return draw.choice((draw.randbytes(draw.randint(1, 64)), bytes(draw.randint(1, 64)), data)) + data


def delete(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randint(1, 64) :]


def repeat(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    length = draw.randint(1, 256)
    return data[: start + length] + data[start : start + length] * draw.randint(1, 4) + data[start + length :]


def move(data: bytes, draw: random.Random) -> bytes:
    """A run of the file over another place."""
    length = draw.randint(1, 128)
    run = data[(start := draw.randrange(len(data))) : start + length]
    place = draw.randrange(len(data))
    return data[:place] + run + data[place + len(run) :]


def number(data: bytes, draw: random.Random) -> bytes:
    """An integer that is as large as it gets, or next to it, at any place."""
    width = draw.choice((2, 4, 8))
    raw = (draw.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, draw.choice(("little", "big")))
    place = draw.randrange(len(data))
    return data[:place] + raw + data[place + width :]


EDITS: dict[str, Edit] = {
    edit.__name__: edit for edit in (flip, flips, overwrite, truncate, append, prepend, delete, repeat, move, number)
}
