"""Pickles put together opcode by opcode, as no pickler would write them, and taken apart again."""

import pickletools
import struct
from dataclasses import dataclass

__all__ = ["Piece", "begun", "called", "calling", "encoded", "integer", "named", "pieces", "text", "tuple_of"]


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def encoded(raw: bytes) -> bytes:
    """Bytes, as protocol 2 writes them."""
    return called("_codecs", "encode", text(raw.decode("latin1")), text("latin1"))


def named(module: str, name: str) -> bytes:
    """What stands under a name."""
    return f"c{module}\n{name}\n".encode()


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def called(module: str, name: str, *arguments: bytes) -> bytes:
    """What a function gives."""
    return calling(named(module, name), *arguments)


def calling(function: bytes, *arguments: bytes) -> bytes:
    """What something that the pickle has made gives when it is called."""
    return function + tuple_of(*arguments) + b"R"


def begun(body: bytes, protocol: int = 2) -> bytes:
    """A whole pickle of a body."""
    return b"\x80" + bytes([protocol]) + body + b"."


@dataclass(frozen=True, slots=True)
class Piece:
    """An operation with its argument, in bytes."""

    name: str
    raw: bytes


def pieces(data: bytes) -> list[Piece]:
    """The operations of one pickle at the beginning of some bytes."""
    found = [(operation.name, place or 0) for operation, _, place in pickletools.genops(data)]
    ends = [place for _, place in found[1:]] + [found[-1][1] + 1]
    return [Piece(name, data[place:end]) for (name, place), end in zip(found, ends, strict=True)]
