"""A zip archive of torch.save, judged by its directory before anything in it is opened.

torch reads an archive without looking at checksums, unpacks what is compressed however large it gets, and takes a
tensor's length from the pickle rather than from the directory. So all that is looked at here.
"""

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from bnretrofit.checkpoints.bounds import MEMBERS, PICKLE_BYTES
from bnretrofit.checkpoints.kinds import SAVE_THE_STATE
from bnretrofit.errors import InputRejectedError

__all__ = ["Archive", "check_contents", "open_archive"]

DIRECTORY_END = struct.Struct("<4s4H2LH")
END_64_LOCATOR = struct.Struct("<4sLQL")
END_64 = struct.Struct("<4sQ2H2L4Q")
FULL = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
UNICODE_PATH = 0x7075
PIECE = 1 << 20
FOLDER = 0x10
"""The attribute of DOS that makes a member a folder, whatever its name."""


@dataclass(frozen=True, slots=True)
class Archive:
    """What an archive holds.

    Attributes:
        path: The file.
        pickle: The pickle beside the tensors.
        records: Bytes of each tensor's data, by the key under which the pickle names it.
    """

    path: Path
    pickle: bytes
    records: dict[str, int]


def open_archive(path: Path) -> Archive:
    """Judge an archive's directory, and take out its pickle.

    Raises:
        InputRejectedError: It is damaged, compressed, ambiguous, or no archive of a state_dict.
    """
    try:
        count = _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) != count:
                raise zipfile.BadZipFile("its directory has another length than it says")
            _check_members(path, members)
            names = {member.filename for member in members}
            root = _root(path, names)
            pickle = archive.getinfo(f"{root}/data.pkl")
            if pickle.file_size > PICKLE_BYTES:
                raise _refused(path, f"its pickle takes {pickle.file_size} bytes", SAVE_THE_STATE)
            prefix = f"{root}/data/"
            records = {m.filename[len(prefix) :]: m.file_size for m in members if m.filename.startswith(prefix)}
            return Archive(path, archive.read(pickle), records)
    except InputRejectedError:
        raise
    except Exception as error:
        # zipfile raises nearly anything on a damaged archive.
        raise _damaged(path, error) from error


def check_contents(path: Path) -> None:
    """Read all members, and hold them against their checksums, which torch does not.

    Raises:
        InputRejectedError: One does not match.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    while file.read(PIECE):
                        pass
    except Exception as error:
        raise _damaged(path, error) from error


def _check_directory(path: Path) -> int:
    """Look whether there is one directory, at the very end: readers that search for it find the same one then.

    Returns:
        How many members it has.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size < DIRECTORY_END.size + END_64_LOCATOR.size:
            raise zipfile.BadZipFile("it is cut short")
        file.seek(size - DIRECTORY_END.size)
        magic, _, _, _, count, length, offset, comment = DIRECTORY_END.unpack(file.read())
        if magic != b"PK\5\6" or comment:
            raise zipfile.BadZipFile("its directory is not at its end: it is cut short, or has something appended")
        end = size - DIRECTORY_END.size
        file.seek(max(end - END_64_LOCATOR.size, 0))
        magic, _, longer, _ = END_64_LOCATOR.unpack(file.read(END_64_LOCATOR.size))
        if magic == b"PK\6\7":
            short, end = (count, length, offset), end - END_64_LOCATOR.size - END_64.size
            file.seek(end)
            magic, *_, count, length, offset = END_64.unpack(file.read(END_64.size))
            # Readers find this record in two ways, and some fall back to the shorter one: all must be the same.
            agree = all(
                few in (many, full) for few, many, full in zip(short, (count, length, offset), FULL, strict=True)
            )
            if magic != b"PK\6\6" or longer != end or not agree:
                raise zipfile.BadZipFile("it has two directories")
    if count > MEMBERS or length > MEMBERS << 8:
        raise _refused(path, f"it has {count} members", SAVE_THE_STATE)
    if offset + length != end:
        raise zipfile.BadZipFile("its directory is not where it says")
    return int(count)


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    # torch looks members up without regard to case.
    names = [member.filename.lower() for member in members]
    if len(set(names)) < len(names):
        raise _refused(path, "two of its members have the same name", SAVE_THE_STATE)
    for member in members:
        name = member.filename
        if not name.isascii() or name != member.orig_filename or UNICODE_PATH in _extra_fields(member.extra):
            raise _refused(path, f"its member {name!r} is named in two ways", SAVE_THE_STATE)
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            why = f"its member '{name}' is compressed or encrypted, as torch.save never writes them"
            raise _refused(path, why, "unpack it and look what it is, or save the state_dict anew")
        if member.external_attr & FOLDER and not member.is_dir():
            # torch's reader takes no data from it then, and leaves the tensor as the memory was.
            raise _refused(path, f"its member '{name}' is marked as a folder", SAVE_THE_STATE)
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
            raise _refused(path, f"its member '{name!r}' names a place outside of it", SAVE_THE_STATE)
    # Stored members cannot be larger together than the file, unless they lie over each other.
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise _refused(path, "its members lie over each other", SAVE_THE_STATE)
    if members and min(member.header_offset for member in members) != 0:
        raise _refused(path, "something stands before its first member", SAVE_THE_STATE)


def _extra_fields(extra: bytes) -> set[int]:
    found, position = set(), 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        found.add(kind)
        position += 4 + length
    return found


def _root(path: Path, names: set[str]) -> str:
    """The folder in which torch.save puts everything."""
    roots = {name.split("/", 1)[0] for name in names}
    if any("/code/" in f"/{name}" for name in names) or any(name.endswith("constants.pkl") for name in names):
        raise _refused(path, "it is a TorchScript archive, which is a program", SAVE_THE_STATE)
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        raise _refused(path, "it is an exported program (.pt2)", SAVE_THE_STATE)
    if any(name.endswith(".npy") for name in names):
        raise _refused(path, "it is an archive of NumPy arrays (.npz)", "convert it to a PyTorch state_dict first")
    (root, *more) = sorted(roots) or [""]
    if more or f"{root}/data.pkl" not in names:
        raise _refused(path, "it is a zip archive of something else", "unpack it and look what it is")
    return root


def _refused(path: Path, why: str, remedy: str) -> InputRejectedError:
    return InputRejectedError("the checkpoint is not admitted", where=str(path), why=why, remedy=remedy)


def _damaged(path: Path, error: Exception) -> InputRejectedError:
    why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputRejectedError(
        "the checkpoint is damaged", where=str(path), why=why, remedy="fetch it again; it may have been cut short"
    )
