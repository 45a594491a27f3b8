"""What a command reads, and no output may replace: it may be all that a user has."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from bnretrofit.checkpoints.places import IN_FOLDERS, STATE, place_of
from bnretrofit.errors import InputRejectedError, UsageError

__all__ = ["check_originals"]


def check_originals(outputs: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Refuse to write over a file that is read, whatever it is called: links lead to one and the same file.

    Args:
        outputs: The files to be written.
        inputs: What is read. An index stands for its shards too, a folder for all that it holds by a checkpoint's name;
            None for what was not given.

    Raises:
        UsageError: An output is one of them.
    """
    read = [file for path in inputs if path is not None for file in _files(path)]
    for output in outputs:
        same = next((file for file in read if _is_same(output, file)), None)
        if same is not None:
            raise UsageError(
                "the output would replace what is read",
                where=str(output),
                why="it is an input" if same == output else f"it is the same file as {same}",
                remedy="choose another name: inputs are never written over",
            )


def _files(path: Path) -> Iterator[Path]:
    yield path
    # Of a folder one checkpoint is read; the others there are the user's, too.
    yield from (path / name for name in (*IN_FOLDERS, STATE))
    # What cannot be read is refused by whoever reads it.
    with suppress(InputRejectedError):
        place = place_of(path)
        yield from place.files
        if place.index is not None:
            yield place.index


def _is_same(output: Path, file: Path) -> bool:
    # What is not there is no input, and what cannot be looked at is told of where it is to be opened.
    with suppress(OSError, ValueError):
        return output.samefile(file)
    return False
