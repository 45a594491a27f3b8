"""Pickles of some kilobytes that take memory or time without end where they are believed."""

import struct
from collections.abc import Callable

from benchmarks.reliability_opcodes import called, encoded, integer, named, text, tuple_of

__all__ = ["BOMBS", "KEY"]

KEY = "bomb"
"""Of the one storage that every container has for them."""

HUGE = 10**11
EIGHT = struct.pack("<Q", HUGE)


def stored(dtype: str, numel: int) -> bytes:
    """A storage by name."""
    found = tuple_of(text("storage"), named("torch", f"{dtype}Storage"), text(KEY), text("cpu"), integer(numel))
    return found + b"Q"


def tensor(dtype: str, numel: int, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """A tensor as torch.save describes it, whatever of it is there."""
    sizes = tuple_of(*map(integer, shape)), tuple_of(*map(integer, stride))
    hooks = called("collections", "OrderedDict")
    return called("torch._utils", "_rebuild_tensor_v2", stored(dtype, numel), integer(offset), *sizes, b"\x89", hooks)


def doubled(last: bytes) -> bytes:
    """A list of a list twice of a list twice ...: 2**40 in all, and a function that walks over them."""
    return (
        b"]q\0" + b"".join(b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(40)) + last
    )


def collided(count: int) -> bytes:
    """Keys that fall into one place of a dictionary, each of which is compared with all before it."""
    modulus = 2**61 - 1
    return b"}(" + b"".join(integer((n + 1) * modulus) + b"N" for n in range(count)) + b"u"


def colliding_tuples(count: int) -> bytes:
    """The same within tuples, whose own hash then collides too."""
    modulus = 2**61 - 1
    return b"}(" + b"".join(integer((n + 1) * modulus) + b"\x85N" for n in range(count)) + b"u"


def colliding_set(count: int) -> bytes:
    modulus = 2**61 - 1
    keys = b"](" + b"".join(integer((n + 1) * modulus) for n in range(count)) + b"e"
    return called("builtins", "set", keys)


def shared(count: int) -> bytes:
    """As many tensors as there is room to name, all of one storage."""
    one = tensor("Float", 4096, (4096,), (1,))
    return b"}(" + b"".join(text(f"t{n}") + one for n in range(count)) + b"u"


BOMBS: dict[str, Callable[[], bytes]] = {
    "bytearray": lambda: called("builtins", "bytearray", integer(HUGE)),
    "bytes": lambda: called("builtins", "bytes", integer(HUGE)),
    "list of a range": lambda: called("builtins", "list", called("builtins", "range", integer(HUGE))),
    "text times a number": lambda: called("operator", "mul", text("a"), integer(HUGE)),
    "power": lambda: called("operator", "pow", integer(10), integer(10**9)),
    "text of a long number": lambda: called("builtins", "pow", integer(7), integer(10**8)),
    "regular expression": lambda: called("re", "match", text("(a+)+$"), text("a" * 60 + "!")),
    "sleep": lambda: called("time", "sleep", integer(1000)),
    "torch.zeros": lambda: called("torch", "zeros", integer(HUGE)),
    "torch.Tensor": lambda: called("torch", "Tensor", integer(HUGE)),
    "NEWOBJ of torch.Tensor": lambda: named("torch", "Tensor") + integer(HUGE) + b"\x85\x81",
    "torch.FloatTensor": lambda: called("torch", "FloatTensor", integer(HUGE)),
    "torch.FloatStorage": lambda: called("torch", "FloatStorage", integer(HUGE)),
    "torch.UntypedStorage": lambda: called("torch.storage", "UntypedStorage", integer(HUGE)),
    "NEWOBJ of UntypedStorage": lambda: named("torch.storage", "UntypedStorage") + integer(HUGE) + b"\x85\x81",
    "a Namespace's __setstate__": lambda: (
        named("argparse", "Namespace")
        + b")\x81}"
        + text("__setstate__")
        + named("torch.storage", "UntypedStorage")
        + b"sb"
        + integer(HUGE)
        + b"b"
    ),
    "LONG_BINPUT": lambda: b"Nr" + struct.pack("<I", 2**32 - 1),
    "PUT": lambda: b"Np4000000000\n",
    "BYTEARRAY8": lambda: b"\x96" + EIGHT,
    "BINBYTES8": lambda: b"\x8e" + EIGHT,
    "BINUNICODE8": lambda: b"\x8d" + EIGHT,
    "BINUNICODE": lambda: b"X\xff\xff\xff\xff",
    "LONG4": lambda: b"\x8b\xff\xff\xff\x7f",
    "FRAME": lambda: b"\x95" + EIGHT,
    "colliding keys": lambda: collided(60_000),
    "colliding tuples": lambda: colliding_tuples(60_000),
    "colliding members of a set": lambda: colliding_set(60_000),
    "nested lists": lambda: b"](" * 300_000 + b"e" * 300_000,
    "nested tuples": lambda: b")" + b"\x85" * 1_000_000,
    "nested dictionaries": lambda: b"}N" * 200_000 + b"N" + b"s" * 200_000,
    "marks": lambda: b"(" * 3_000_000 + b"N",
    "empty lists": lambda: b"(" + b"]" * 3_000_000 + b"t",
    "doubled lists, compared": lambda: called("builtins", "len", called("builtins", "repr", doubled(b""))),
    "doubled lists, counted": lambda: called("collections", "Counter", called("builtins", "str", doubled(b""))),
    "doubled lists, within a size": lambda: called("torch", "Size", doubled(b"")),
    "stride 0": lambda: tensor("Float", 1, (10**6, 10**6), (0, 0)),
    "stride 0, in half a storage": lambda: tensor("Float", 4096, (4096, 4096), (1, 0)),
    "many dimensions": lambda: tensor("Float", 1, (1,) * 100_000, (1,) * 100_000),
    "storage longer than its data": lambda: tensor("Float", 10**10, (10**10,), (1,)),
    "storage of too many bytes": lambda: tensor("Double", 2**61, (2**61,), (1,)),
    "storage of negative length": lambda: tensor("Float", -1, (1,), (1,)),
    "offset beyond the storage": lambda: tensor("Float", 4096, (4096,), (1,), 2**62),
    "longer than its storage": lambda: tensor("Float", 4096, (2**31,), (1,)),
    "BUILD of a tensor": lambda: (
        tensor("Float", 4096, (4096,), (1,))
        + tuple_of(stored("Float", 4096), integer(0), tuple_of(integer(2**31)), tuple_of(integer(1)))
        + b"b"
    ),
    "quantised": lambda: called(
        "torch._utils",
        "_rebuild_qtensor",
        stored("QInt8", 16384),
        integer(0),
        tuple_of(integer(2**33)),
        tuple_of(integer(1)),
        tuple_of(named("torch", "per_tensor_affine"), integer(1), integer(0)),
        b"\x89",
        called("collections", "OrderedDict"),
    ),
    "one storage in many tensors": lambda: shared(2000),
    "sparse": lambda: called(
        "torch._utils",
        "_rebuild_sparse_tensor",
        called("torch.serialization", "_get_layout", text("torch.sparse_coo")),
        tuple_of(
            tensor("Long", 2048, (1, 1), (1, 1)), tensor("Float", 4096, (1,), (1,)), tuple_of(integer(HUGE)), b"\x88"
        ),
    ),
    "meta": lambda: called(
        "torch._utils",
        "_rebuild_meta_tensor_no_storage",
        named("torch", "float32"),
        tuple_of(integer(2**40)),
        tuple_of(integer(1)),
        b"\x89",
    ),
    "text in an encoding of squares": lambda: called("_codecs", "encode", text("ß" * 300_000), text("idna")),
    "bytes within bytes": lambda: encoded(b"\xff" * 1_000_000),
    "long text": lambda: text("a" * 1_000_000),
}
