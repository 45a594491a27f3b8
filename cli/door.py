"""The one door: every exception and interruption becomes one message and a documented exit code, as text or as JSON."""

import difflib
import errno
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from .console import fail, launched_rank
from .interruption import Interruption
from .training_options import in_options

__all__ = ["Door"]

INTERNAL, USAGE, RESOURCES, INTERRUPTED = 1, 2, 5, 130


class Door(click.Group):
    """A click group through which every error leaves."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> Any:
        """Run a command and exit with its code."""
        arguments = list(sys.argv[1:] if args is None else args)
        before = _state(_output(arguments))
        with Interruption(to_the_end=args is None) as interruption:
            try:
                code = self._run(arguments, interruption)
                interruption.too_late(code)
            except (KeyboardInterrupt, click.Abort):
                code = INTERRUPTED
                interruption.too_late(code)
                # A terminal that was closed takes no message.
                with suppress(OSError):
                    if launched_rank() == 0:
                        fail(arguments, "interrupted", _how_to_go_on(arguments, before), code)
            # Here the exception is gone, and with it what it held: workers that decode have been told to end.
            if interruption.received:
                interruption.leave(code)
        sys.exit(code)

    def _run(self, arguments: list[str], interruption: Interruption) -> int:
        try:
            result = super().main(arguments, prog_name="bnretrofit", standalone_mode=False)
        except click.exceptions.Exit as stop:
            return stop.exit_code
        except click.ClickException as error:
            return self._usage(arguments, error)
        except click.Abort:
            raise
        except Exception as error:
            if interruption.received:
                # What an interruption is made into by a library that it passes through, or by a worker that it ends.
                raise KeyboardInterrupt from error
            return _failed(arguments, error)
        return result if isinstance(result, int) else 0

    def _usage(self, arguments: list[str], error: click.ClickException) -> int:
        message = error.format_message()
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            click.echo(message, err=True)
            return USAGE
        if isinstance(error, click.UsageError) and error.ctx is not None:
            if message.startswith("No such command") and arguments:
                close = difflib.get_close_matches(arguments[0], self.list_commands(error.ctx), n=1)
                message += f" Did you mean '{close[0]}'?" if close and "Did you mean" not in message else ""
            message += "" if message.endswith((".", "?", ")")) else "."
            message += f" See '{error.ctx.command_path} --help'."
        return fail(arguments, "UsageError", message, USAGE)


def _output(arguments: list[str]) -> Path | None:
    for argument, value in pairwise([*arguments, ""]):
        if argument in ("-o", "--output"):
            return Path(value)
        if argument.startswith(("-o", "--output=")):
            return Path(argument.removeprefix("--output=").removeprefix("-o"))
    return None


def _state(path: Path | None) -> tuple[int, int] | None:
    """What differs once a file has been replaced, or something been put into a folder."""
    try:
        found = path.stat() if path is not None else None
    except (OSError, ValueError):
        return None
    return None if found is None else (found.st_ino, found.st_mtime_ns)


def _quoted(argument: str) -> str:
    """An argument as a shell takes it, in one line of what can be seen."""
    if argument.isprintable():
        return shlex.quote(argument)
    special = b"\\'"
    data = os.fsencode(argument)
    shown = (chr(byte) if 32 <= byte < 127 and byte not in special else f"\\x{byte:02x}" for byte in data)
    return f"$'{''.join(shown)}'"


def _how_to_go_on(arguments: list[str], before: tuple[int, int] | None) -> str:
    output = _output(arguments)
    command = " ".join(map(_quoted, ["bnretrofit", *arguments]))
    kept = output is not None and (output / "args.yaml").is_file()
    if output is None or _is_empty(output) or (_state(output) == before and not kept):
        return f"interrupted, nothing was written; to start again: {command}"
    if kept:
        again = command if "--resume" in arguments else f"{command} --resume"
        ranks = os.environ.get("WORLD_SIZE", "1")
        how = "to go on" if ranks == "1" else f"to go on, launch on {ranks} processes as before"
        return f"interrupted, what '{output}' holds is whole; {how}: {again}"
    if output.is_dir():
        return f"interrupted, the folder '{output}' is not complete; remove it, then: {command}"
    return f"interrupted after '{output}' had been written whole; it came from: {command}"


def _is_empty(folder: Path) -> bool:
    """Whether it is a folder and holds nothing but what is hidden, such as the lock of whoever wrote there."""
    try:
        return folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())
    except OSError:
        return False


def _failed(arguments: list[str], error: Exception) -> int:
    # Imported here: an error of the library means that the library is loaded.
    from bnretrofit.errors import RetrofitError
    from bnretrofit.memory import shortage_behind

    if _disk_is_full(error):
        text = f"{error if isinstance(error, RetrofitError) else f'the disk is full: {error}'}. "
        remedy = "Free some disk, or write to another one"
        return fail(arguments, "ResourceError", text + remedy, RESOURCES)
    if (shortage := shortage_behind(error)) is not None:
        remedy = "Use a smaller --batch-size or --img-size, fewer --workers, or another --device"
        return fail(arguments, "ResourceError", f"{shortage}. {remedy}", RESOURCES)
    if isinstance(error, RetrofitError):
        report = getattr(error, "report", None)
        more = {} if report is None else {"report": report}
        text = in_options(str(error), getattr(error, "settings", ()))
        return fail(arguments, type(error).__name__, text, error.exit_code, **more)
    import traceback

    if os.environ.get("BNRETROFIT_TRACEBACK"):
        traceback.print_exc()
    name = type(error).__name__
    remedy = "Please report it with the output of 'bnretrofit env'; BNRETROFIT_TRACEBACK=1 shows where"
    return fail(arguments, name, f"internal error, {name}: {error}. {remedy}", INTERNAL)


def _disk_is_full(error: BaseException | None) -> bool:
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        # safetensors writes from Rust, whose errors are not Python's.
        if full or "No space left on device" in str(error):
            return True
        error = error.__cause__
    return False
