"""A file's first bytes -> its format. Names say nothing: a .pth may be anything."""

import os
import stat
from pathlib import Path

from bnretrofit.errors import InputRejectedError

__all__ = ["kind_of_file"]

SAVE_THE_STATE = "save model.state_dict() with torch.save or safetensors where the file was made"

# What people also call a checkpoint, by the bytes it begins with.
FOREIGN = {
    b"\x89HDF": ("an HDF5 file, as Keras writes them", "convert it to a PyTorch state_dict first"),
    b"GGUF": ("a GGUF file", "use the checkpoint it was converted from"),
    b"\x1f\x8b": ("compressed with gzip", "unpack it first"),
    b"BZh": ("compressed with bzip2", "unpack it first"),
    b"\xfd7zXZ": ("compressed with xz", "unpack it first"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unpack it first"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it first"),
    b"Rar!": ("a RAR archive", "unpack it first"),
    b"\x93NUMPY": ("a NumPy array", "convert it to a PyTorch state_dict first"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "fetch it with 'git lfs pull'"),
    b"<!DOCTYPE": ("a web page", "download the file itself"),
    b"<html": ("a web page", "download the file itself"),
}
TAR_MAGIC, TAR_OFFSET = b"ustar", 257


def kind_of_file(path: Path) -> str:
    """Tell "safetensors", "zip" (torch.save since 1.6) and "stream" (torch.save before) apart.

    Raises:
        InputRejectedError: It is no regular file, cannot be read, or is of another format.
    """
    start = _start_of(path)
    # Eight bytes of length, below 100 MB. The low ones may be those of a pickle (1152 is 80 04), so this goes first.
    if start[4:9] == b"\0\0\0\0{":
        return "safetensors"
    if start.startswith(b"PK\x03\x04"):
        return "zip"
    if start.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "stream"
    raise _foreign(path, start)


def _start_of(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            why = "it is a folder" if stat.S_ISDIR(mode) else "it is no regular file"
            raise InputRejectedError("the checkpoint cannot be read", where=str(path), why=why)
        # A pipe put in its place meanwhile would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            return os.read(descriptor, TAR_OFFSET + len(TAR_MAGIC))
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        why = "there is no such file"
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise InputRejectedError("the checkpoint cannot be read", where=str(path), why=why)


def _foreign(path: Path, start: bytes) -> InputRejectedError:
    why, remedy = "its first bytes are those of neither", "it may be damaged, cut short, or of another format"
    if not start:
        why = "it is empty"
    elif start[TAR_OFFSET:] == TAR_MAGIC:
        why = "it is a tar archive, as torch wrote before 0.1.10 or somebody packed"
        remedy = f"unpack it, or load it with an old torch and {SAVE_THE_STATE}"
    for magic, (name, what_to_do) in FOREIGN.items():
        if start.lower().startswith(magic.lower()):
            why, remedy = f"it is {name}", what_to_do
    return InputRejectedError(
        "the checkpoint is neither safetensors nor a file of torch.save", where=str(path), why=why, remedy=remedy
    )
