"""Stand-ins for all that a pickle of torch.save may name: nothing is called, and no memory is taken."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Refused", "SavedTensor", "StandIn", "StorageClass", "StoredBytes", "check_keys", "is_count", "stand_in"]


class Refused(Exception):  # noqa: N818 - it is a finding, turned into an error by whoever knows the file
    """What a pickle does that is not admitted, as a sentence."""


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """A storage as the pickle names it: its key, and how many elements of which dtype it is to have."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A tensor as the pickle describes it; `problem` says what it is if it is not a plain one."""

    storage: StoredBytes | None
    offset: int = 0
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    problem: str | None = None


class StandIn:
    """Stands for an object of no interest."""


class _Name:
    """Stands for a class that is named only: called, it would reserve as much memory as it is told to."""


def _ignored(*_: Any) -> StandIn:
    return StandIn()


def _collected(items: Any = ()) -> StandIn:
    check_keys(items)
    return StandIn()


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    items = list(items.items() if isinstance(items, dict) else items)
    check_keys(key for key, _ in items)
    return OrderedDict(items)


def _encoded(_text: Any, encoding: Any = "latin1") -> bytes:
    # How torch.save writes bytes. Other encodings do more than that, some slowly.
    if encoding != "latin1":
        raise Refused(f"its pickle encodes text as {encoding!r}")
    return b""


@dataclass(frozen=True, slots=True)
class StorageClass:
    """Stands for a class of storages, by the dtype of its elements."""

    dtype: torch.dtype

    def __call__(self, *_: Any) -> Any:
        """Refuse to make one: those of the file are named, and only those are read."""
        raise Refused("its pickle makes a storage that is not in the file")


def check_keys(keys: Iterable[Any]) -> None:
    """Look whether these can be the keys of a dictionary without making it slow.

    Raises:
        Refused: One is neither text nor a short number.
    """
    # Tuples, floats and long integers can be chosen so that all fall into one place of the table.
    if not all(isinstance(key, (str, bytes)) or (isinstance(key, int) and abs(key) < 1 << 32) for key in keys):
        raise Refused("its pickle has dictionaries with keys that are neither text nor numbers")


def is_count(value: Any) -> bool:
    """Whether it can be a size: a number that torch takes."""
    return type(value) is int and 0 <= value < 1 << 62


def stand_in(name: str) -> Any:
    """What stands for the object of that name; None if it may not be named."""
    module, _, leaf = name.rpartition(".")
    if module in ("torch", "torch.storage") and leaf in STORAGE_DTYPES:
        return StorageClass(STORAGE_DTYPES[leaf])
    if module == "torch" and isinstance(getattr(torch, leaf, None), torch.dtype):
        return getattr(torch, leaf)
    return STAND_INS.get(name)


STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "UntypedStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "QInt8Storage": torch.qint8,
    "QInt32Storage": torch.qint32,
    "QUInt8Storage": torch.quint8,
}


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> SavedTensor:
    sizes = (offset, *shape, *stride)
    if not isinstance(storage, StoredBytes) or len(shape) != len(stride) or not all(is_count(size) for size in sizes):
        raise Refused("its pickle describes a tensor otherwise than torch.save does")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if 0 not in shape and last >= storage.numel:
        # Whichever tensor it is, wanted or not: torch would reserve memory for all of it.
        raise Refused("it holds a tensor that is longer than what is stored of it")
    return SavedTensor(storage, offset, tuple(shape), tuple(stride))


def _tensor_of(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> SavedTensor:
    """A tensor whose dtype is not that of its storage, and stands apart."""
    dtype = next((value for value in more if isinstance(value, torch.dtype)), None)
    if not isinstance(storage, StoredBytes) or dtype is None:
        raise Refused("its pickle describes a tensor otherwise than torch.save does")
    numel = storage.numel * storage.dtype.itemsize // dtype.itemsize
    return _tensor(StoredBytes(storage.key, dtype, numel), offset, shape, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _parameter_with(data: Any, _requires_grad: Any, _hooks: Any, state: Any) -> Any:
    _check_attributes(state)
    return data


def _with_attributes(build: Callable[..., Any], _class: Any, arguments: Any, state: Any) -> Any:
    if build not in (_tensor, _parameter):
        raise Refused("it holds a tensor of a class of its own")
    _check_attributes(state)
    return build(*arguments)


def _check_attributes(state: Any) -> None:
    """Look whether the attributes of a tensor leave it what it is: `data` or `numel` would not."""
    parts = state if isinstance(state, tuple) else (state,)
    names = [str(name) for part in parts if isinstance(part, dict) for name in part]
    if any(hasattr(torch.Tensor, name) for name in names) or not all(isinstance(p, (dict, type(None))) for p in parts):
        raise Refused("it holds a tensor with attributes that change what it is")


def _other(problem: str) -> Callable[..., SavedTensor]:
    return lambda *_: SavedTensor(None, problem=problem)


def _never(kind: str) -> Callable[..., SavedTensor]:
    """Of tensors for which torch reserves memory at the file's word, wanted or not."""

    def refuse(*_: Any) -> SavedTensor:
        raise Refused(f"it holds a tensor that is {kind}")

    return refuse


STAND_INS: dict[str, Any] = {
    "collections.OrderedDict": _ordered,
    "collections.Counter": _collected,
    "builtins.set": _collected,
    "builtins.complex": _ignored,
    "argparse.Namespace": StandIn,
    "_codecs.encode": _encoded,
    "torch.Size": tuple,
    "torch.device": _ignored,
    "torch.Tensor": _Name(),
    "torch.nn.parameter.Parameter": _Name(),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter_with,
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
    "torch._utils._rebuild_tensor_v3": _tensor_of,
    "torch._utils._rebuild_qtensor": _never("quantised"),
    "torch._utils._rebuild_sparse_tensor": _other("sparse"),
    "torch._utils._rebuild_meta_tensor_no_storage": _other("on the meta device, so it has no values"),
    "torch._utils._rebuild_wrapper_subclass": _never("of a class of its own"),
    "torch.serialization._get_layout": _ignored,
    **{
        f"torch.{name}": _Name()
        for name in (
            *("per_tensor_affine", "per_channel_affine", "per_tensor_symmetric", "per_channel_symmetric"),
            "per_channel_affine_float_qparams",
        )
    },
}
"""What torch's own reader loads, less what reserves memory at the file's word; and argparse.Namespace, in which people
keep their training options."""
