"""A pickle of torch.save -> the outline of what it holds: names, shapes and places, and nothing made of them.

The pickle is run with stand-ins for all that it may name, so that nothing is allocated and nothing is called. torch
itself then reads the file, with `weights_only`.
"""

import pickle
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from bnretrofit.checkpoints.bounds import HANDED_OVER, OPERATIONS
from bnretrofit.checkpoints.stand_ins import Refused, StandIn, StorageClass, StoredBytes, check_keys, is_count, stand_in

__all__ = ["Outline", "outline_of"]

# What torch's own reader knows, and no more.
KNOWN_OPERATIONS = frozenset(
    {
        *("GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "MARK"),
        *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
        *("NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
        *("SHORT_BINSTRING", "BINPERSID", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "PROTO", "STOP"),
    }
)


@dataclass(frozen=True, slots=True)
class Outline:
    """What a pickle holds.

    Attributes:
        content: What was saved, with `SavedTensor` in place of tensors.
        storages: All storages that are named, also by what is of no interest.
        end: Where the pickle ends.
    """

    content: Any
    storages: list[StoredBytes]
    end: int


def outline_of(data: bytes, start: int = 0) -> Outline:
    """Run a pickle with stand-ins.

    Raises:
        Refused: It names what torch's reader would not load, or is built to waste memory or time.
        Exception: Whatever Python raises on a damaged pickle.
    """
    _check_operations(data, start)
    file = BytesIO(data)
    file.seek(start)
    reader = _Reader(file)
    content = reader.load()
    return Outline(content, reader.storages, file.tell())


def _check_operations(data: bytes, start: int) -> None:
    file = BytesIO(data)
    file.seek(start)
    for count, (operation, _, _) in enumerate(pickletools.genops(file)):
        if operation.name not in KNOWN_OPERATIONS:
            raise Refused(f"its pickle uses {operation.name}, which torch's reader does not know")
        if count > OPERATIONS:
            raise Refused(f"its pickle has more than {OPERATIONS} operations")


# The reader in Python: the one in C reserves memory for as many memo entries as the file likes.
_PythonReader: Any = pickle._Unpickler  # noqa: SLF001


class _Reader(_PythonReader):  # type: ignore[misc]
    dispatch = dict(_PythonReader.dispatch)  # noqa: RUF012

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: list[StoredBytes] = []
        self.handed_over = 0

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for what the pickle names."""
        # torch.save writes the names of Python 2: `__builtin__.set`; torch's reader takes them for those of Python 3.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        found = stand_in(f"{module}.{name}")
        if found is None:
            raise Refused(f"it holds {module}.{name}, which is none of what is read here")
        return found

    def persistent_load(self, saved: Any) -> StoredBytes:
        """A storage, by its description."""
        kind, storage_class, key, _, numel, *view = saved
        if (
            kind != "storage"
            or not isinstance(storage_class, StorageClass)
            or not is_count(numel)
            or not isinstance(key, str)
        ):
            raise Refused("its pickle describes a storage otherwise than torch.save does")
        if view and view[0] is not None:
            raise Refused("it was written by a very old torch, with views of storages")
        found = StoredBytes(key, storage_class.dtype, numel)
        self.storages.append(found)
        return found

    def load_setitem(self) -> None:
        """Set one entry, under a key that cannot be made to collide with others."""
        check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Set several."""
        check_keys(self.stack[::2])
        super().load_setitems()

    def load_build(self) -> None:
        """Give an object its attributes: of a state_dict or of training options, which no one here reads."""
        made, state = self.stack[-2:]
        # A tensor's would be a storage and sizes other than those it was admitted with; a dictionary's, its methods.
        mine = isinstance(made, OrderedDict) and not any(hasattr(OrderedDict, str(name)) for name in state)
        if not isinstance(state, dict) or not (mine or isinstance(made, StandIn)) or "__setstate__" in state:
            raise Refused("its pickle changes what it has made, as torch.save does not")
        self._count(state)
        del self.stack[-1]

    def load_reduce(self) -> None:
        """Call a stand-in, with as much as all calls together may be given: one list may be given to each of many."""
        for argument in self.stack[-1]:
            self._count(argument)
        super().load_reduce()

    def _count(self, given: Any) -> None:
        if isinstance(given, (str, bytes, list, tuple, set, dict)):
            self.handed_over += len(given)
        if self.handed_over > HANDED_OVER:
            raise Refused("its pickle hands the same things over again and again")

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
