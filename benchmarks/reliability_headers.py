"""Edits of what a safetensors file and an index of shards say in JSON: shapes, offsets, dtypes, names, nesting."""

import json
import random
from collections.abc import Callable
from typing import Any

from benchmarks.reliability_edits import NUMBERS

__all__ = ["header_edit", "index_edit"]

DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "U16", "C64", "F4", "", "f32", "F32 ")
NAMES = ("", "__metadata__", "0.weight", "module.0.weight", "a" * 300, "\0", "../x", "\ud800", "é", "state_dict")
ODD: tuple[Callable[[random.Random], Any], ...] = (
    lambda draw: draw.choice(NUMBERS),
    lambda draw: -draw.choice(NUMBERS),
    lambda draw: draw.choice((None, True, False, 0.5, 1e308, float("nan"), float("inf"))),
    lambda draw: draw.choice(NAMES),
    lambda draw: draw.choice(([], {}, [[]], [1, 2], [0], {"dtype": "F32"})),
    lambda draw: [draw.choice(NUMBERS) for _ in range(draw.randint(1, 40))],
    lambda draw: 10 ** draw.choice((30, 400)),
    lambda draw: draw.choice(DTYPES),
)


def header_edit(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file with its header changed, and its length field, most times, as the header now is."""
    length = int.from_bytes(data[:8], "little")
    rest = data[8 + length :]
    text = _changed(data[8 : 8 + length].decode(), draw)
    raw = text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.2:
        raw += b" " * (-len(raw) % 8)
    stated = len(raw)
    if draw.random() < 0.1:
        stated = draw.choice((*NUMBERS, stated + 1, max(stated - 1, 0), stated + len(rest)))
    if draw.random() < 0.2:
        rest = draw.choice((rest[:-4], rest + bytes(4), b"", rest * 2))
    return stated.to_bytes(8, "little") + raw + rest


def index_edit(data: bytes, draw: random.Random) -> bytes:
    """An index of shards, changed."""
    return _changed(data.decode(), draw).encode("utf-8", "surrogatepass")


def _changed(text: str, draw: random.Random) -> str:
    way = draw.randrange(10)
    if way == 0:
        return _textual(text, draw)
    document = json.loads(text)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        _entries(document, draw) if way < 5 else _anywhere(document, draw)
    return json.dumps(document, ensure_ascii=draw.random() < 0.5)


def _textual(text: str, draw: random.Random) -> str:
    """What no JSON writer would write: an entry twice, deep nesting, long numbers, half of a text."""
    depth = draw.choice((10, 1000, 50_000))
    inside = text.strip()[1:-1]
    return draw.choice(
        (
            f"{{{inside},{inside}}}",
            f'{{{inside},"x":{"[" * depth}{"]" * depth}}}',
            f'{{{inside},"x":{"[" * depth}',
            f'{{{inside},"x":{"9" * depth}}}',
            f'{{{inside},"__metadata__":{{"format":"pt"}}}}',
            f"{{{inside},}}",
            f'{{"x":{text},{inside}}}',
            text.replace("[", "[[", 1),
            text[: draw.randrange(len(text))],
            f"\ufeff{text}",
            f"[{text}]",
        )
    )


def _entries(document: Any, draw: random.Random) -> None:
    """A change that stays near to what a header is."""
    tensors = [entry for entry in document.values() if isinstance(entry, dict) and "shape" in entry]
    if not tensors:
        _anywhere(document, draw)
        return
    one, other = draw.choice(tensors), draw.choice(tensors)
    way = draw.randrange(7)
    if way == 0 and one["shape"]:
        one["shape"][draw.randrange(len(one["shape"]))] = draw.choice(NUMBERS)
    elif way == 1:
        one["data_offsets"][draw.randrange(2)] += draw.choice((-8, -4, -1, 1, 4, 8, 2**32, -(2**32), 2**63))
    elif way == 2:
        one["dtype"] = draw.choice(DTYPES)
    elif way == 3:
        one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]
    elif way == 4:
        one["shape"] = [*one["shape"], *draw.choice(([1], [0], [1] * 100, [2**32, 2**32], [-1], [0, 2**63]))]
    elif way == 5:
        one["shape"], other["shape"] = other["shape"], one["shape"]
    else:
        name = draw.choice([name for name, entry in document.items() if entry is one])
        document[draw.choice(NAMES)] = document.pop(name)


def _anywhere(document: Any, draw: random.Random) -> None:
    """Something odd in place of anything, or under another name, or gone."""
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = draw.choice(keys)
        if isinstance(place[key], (dict, list)) and place[key] and draw.random() < 0.8:
            place = place[key]
            continue
        break
    way = draw.randrange(4)
    if way == 0:
        del place[key]
    elif way == 1 and isinstance(place, dict):
        place[draw.choice(NAMES)] = place.pop(key)
    else:
        place[key] = draw.choice(ODD)(draw)
