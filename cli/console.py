"""What a user reads: results on stdout, notes and errors on stderr, or exactly one JSON document on stdout."""

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from typing import Any

import click

__all__ = [
    "SIGNALS",
    "counted",
    "emit_json",
    "fail",
    "ignore_interruptions",
    "launched_rank",
    "note",
    "results_only",
    "show",
    "table",
]

SCHEMA_VERSION = 1

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What interrupts a command; a platform may lack some."""


def results_only() -> AbstractContextManager[object]:
    """What a model or a library prints while this lasts goes to stderr: stdout is for results."""
    return redirect_stdout(sys.stderr)


def show(text: str, *, err: bool = False) -> None:
    """Print a text, with whatever a terminal would obey written out: names come from files of strangers."""
    click.echo("".join(character if _is_harmless(character) else _escaped(character) for character in text), err=err)


def _is_harmless(character: str) -> bool:
    return character.isprintable() or character in "\n\t"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def note(text: str) -> None:
    """Tell the user something that is not the result, on a line of its own also while a bar shows how far work is."""
    with _without_bars():
        show(f"note: {_in_one_line(text)}", err=True)


@contextmanager
def _without_bars() -> Iterator[None]:
    # A bar is shown after a second only; one that was not is not brought up now.
    bars = [bar for bar in _bars() if _is_shown(bar)]
    for bar in bars:
        bar.clear()
    yield
    for bar in bars:
        bar.refresh()


def _bars() -> list[Any]:
    # Where tqdm was not imported there is no bar, and it takes a while to import.
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    return [] if tqdm is None else list(tqdm._instances)  # noqa: SLF001


def _is_shown(bar: Any) -> bool:
    begun = getattr(bar, "start_t", None)
    return begun is not None and not bar.disable and bar.last_print_t >= begun + bar.delay


def _in_one_line(text: str) -> str:
    return text.replace("\n", "\\n")


def ignore_interruptions() -> None:
    """They come too late from here on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def emit_json(command: str, document: Mapping[str, Any], *, status: str = "ok", exit_code: int = 0) -> None:
    """Print the command's one JSON document, which is the last thing that it does."""
    # An interruption would put a second document after this one, or into it. The door gives the handlers back.
    ignore_interruptions()
    whole = {"schema_version": SCHEMA_VERSION, "command": command, "status": status, "exit_code": exit_code, **document}
    click.echo(json.dumps(whole, indent=2, allow_nan=False))


def launched_rank() -> int:
    """This process's number among those that `torchrun` or `accelerate launch` has started."""
    number = os.environ.get("RANK", "0")
    return int(number) if number.isdecimal() else 0


def fail(arguments: list[str], kind: str, message: str, exit_code: int, **more: object) -> int:
    """Print an error, as JSON on stdout if the command was asked for JSON, and return the exit code.

    Of several processes one gives the document; the others have errors of their own, perhaps, and say them as text.
    """
    # The error holds on to frames, and these to bars: what they show of work that has ended would stand on its line.
    for bar in _bars():
        bar.close()
    if "--json" in arguments and launched_rank() == 0:
        command = next((argument for argument in arguments if not argument.startswith("-")), "")
        status = "interrupted" if kind == "interrupted" else "error"
        emit_json(command, {"error": {"kind": kind, "message": message}, **more}, status=status, exit_code=exit_code)
    else:
        show(f"error: {_in_one_line(message)}", err=True)
    return exit_code


def counted(count: int, noun: str) -> str:
    """A number of things: "1 layer", "2 layers"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def table(rows: Iterable[Iterable[object]], header: Iterable[str]) -> str:
    """Rows as text in columns; the last column is not padded."""
    lines = [[_in_one_line(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
