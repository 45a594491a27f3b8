"""Edits of the pickle within a checkpoint, operation by operation, with the archive's checksums made right again.

A checksum tells of damage and of nothing else: whoever builds a file to do harm writes the right one.
"""

import random
from functools import lru_cache

from benchmarks.reliability_edits import EDITS, NUMBERS
from benchmarks.reliability_opcodes import Piece, encoded, integer, named, pieces, text, tuple_of
from benchmarks.reliability_zips import members, packed

__all__ = ["stream_edit", "zip_edit"]

CODES = bytes(range(256))
NAMES = (
    *("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"),
    *("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state", "torch Tensor", "torch Size"),
    *("torch._tensor _rebuild_from_type_v2", "torch._utils _rebuild_sparse_tensor", "torch device", "torch float32"),
    *("torch._utils _rebuild_qtensor", "torch._utils _rebuild_meta_tensor_no_storage", "torch.nn.parameter Parameter"),
    *("torch._utils _rebuild_wrapper_subclass", "torch.serialization _get_layout", "torch per_tensor_affine"),
    *("torch FloatStorage", "torch HalfStorage", "torch LongStorage", "torch BoolStorage", "torch ByteStorage"),
    *("torch.storage UntypedStorage", "torch.storage TypedStorage", "torch.storage _LegacyStorage"),
    *("collections OrderedDict", "collections Counter", "collections defaultdict", "builtins set", "builtins complex"),
    *("argparse Namespace", "_codecs encode", "builtins bytearray", "torch _dynamo", "torch.jit _script", "os system"),
    *("torch nosuch", "torch.serialization os", "builtins getattr", "", " ", "torch", "torch._utils"),
)
TEXTS = ("", "storage", "cpu", "meta", "cuda:0", "0", "1", "00", "../0", "0.weight", "state_dict", "\0", "a" * 70_000)


def zip_edit(data: bytes, draw: random.Random) -> bytes:
    """A zip archive with another pickle in it."""
    content = _members(data)
    return packed([(name, _edited(raw, draw) if name.endswith("/data.pkl") else raw) for name, raw in content])


def stream_edit(data: bytes, draw: random.Random) -> bytes:
    """A file of five pickles with one of them changed."""
    spans, start = [], 0
    for _ in range(5):
        end = start + sum(len(piece.raw) for piece in _pieces(data[start:]))
        spans.append((start, end))
        start = end
    start, end = draw.choice((*spans, spans[3], spans[3], spans[3]))
    return data[:start] + _edited(data[start:end], draw) + data[end:]


@lru_cache(maxsize=32)
def _members(data: bytes) -> list[tuple[str, bytes]]:
    return members(data)


@lru_cache(maxsize=64)
def _pieces(data: bytes) -> list[Piece]:
    return pieces(data)


def _edited(pickle: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.15:
        return draw.choice(list(EDITS.values()))(pickle, draw)
    found = list(_pieces(pickle))
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        _edit(found, draw)
    return b"".join(piece.raw for piece in found)


def _edit(found: list[Piece], draw: random.Random) -> None:
    place, other = draw.randrange(len(found)), draw.randrange(len(found))
    way = draw.randrange(9)
    if way == 0:
        found[place] = Piece("", bytes([draw.choice(CODES)]) + found[place].raw[1:])
    elif way == 1:
        # One always stays, to be edited again.
        found[:] = [piece for number, piece in enumerate(found) if number != place] or found
    elif way == 2:
        found.insert(place, found[other])
    elif way == 3:
        found[place], found[other] = found[other], found[place]
    elif way == 4:
        found.insert(place, Piece("", _anything(draw)))
    elif way == 5:
        length = draw.randint(1, 20)
        found[place:place] = found[other : other + length] * draw.choice((1, 1, 2, 100))
    else:
        # Another argument for the same operation: what a file that is built to do harm would differ in.
        kinds = (("BININT1", "BININT2", "BININT", "LONG1"), ("GLOBAL",), ("BINUNICODE",))[way - 6]
        places = [number for number, piece in enumerate(found) if piece.name in kinds]
        if places:
            found[draw.choice(places)] = Piece("", (_number, _name, _text)[way - 6](draw))


def _number(draw: random.Random) -> bytes:
    return integer(draw.choice((1, 1, 1, -1)) * draw.choice((*NUMBERS, 3, 4, 9, 27, 10**30)))


def _name(draw: random.Random) -> bytes:
    module, _, name = draw.choice(NAMES).partition(" ")
    return named(module, name)


def _text(draw: random.Random) -> bytes:
    return text(draw.choice(TEXTS))


def _anything(draw: random.Random) -> bytes:
    """A piece of a pickle, by itself."""
    simple = (
        b"N",
        b"\x88",
        b"\x89",
        b")",
        b"]",
        b"}",
        b"\x8f",
        b"(",
        b"0",
        b"1",
        b"2",
        b"Q",
        b"R",
        b"b",
        b"\x81",
        b".",
    )
    more = (
        b"\x85",
        b"\x86",
        b"\x87",
        b"t",
        b"l",
        b"d",
        b"s",
        b"u",
        b"a",
        b"e",
        b"\x90",
        b"\x91",
        b"\x94",
        b"\x93",
        b"o",
    )
    ways = (
        *(_number, _name, _text),
        lambda draw: draw.choice(simple),
        lambda draw: draw.choice(more),
        lambda draw: b"q" + bytes([draw.randrange(256)]),
        lambda draw: b"r" + (draw.choice(NUMBERS) % 2**32).to_bytes(4, "little"),
        lambda draw: b"h" + bytes([draw.randrange(256)]),
        lambda draw: b"j" + (draw.choice(NUMBERS) % 2**32).to_bytes(4, "little"),
        lambda draw: _name(draw) + tuple_of(_number(draw)) + b"R",
        lambda draw: _name(draw) + b")\x81}" + _text(draw) + _number(draw) + b"sb",
        lambda draw: (
            draw.choice((b"G", b"B", b"C", b"T", b"U", b"\x8b", b"\x8d", b"\x8e", b"\x95", b"\x96")) + draw.randbytes(8)
        ),
        lambda draw: encoded(draw.randbytes(4)),
        lambda draw: draw.choice((b"(", b"]", b"}", b"N", b"K\0\x85")) * draw.choice((2, 100, 3000)),
    )
    return draw.choice(ways)(draw)
