"""The one door for errors: every exception becomes one message and a documented exit code, as text or as JSON."""

import difflib
import errno
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from .console import fail

__all__ = ["Door"]

INTERNAL, USAGE, RESOURCES, INTERRUPTED = 1, 2, 5, 130


class Door(click.Group):
    """A click group through which every error leaves."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> Any:
        """Run a command and exit with its code."""
        arguments = list(sys.argv[1:] if args is None else args)
        # A polite kill ends like Ctrl-C: what is being written is swept away on the way out.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            result = super().main(arguments, prog_name="bnretrofit", standalone_mode=False)
            code = result if isinstance(result, int) else 0
        except click.exceptions.Exit as stop:
            code = stop.exit_code
        except click.ClickException as error:
            code = self._usage(arguments, error)
        except (KeyboardInterrupt, click.Abort):
            code = fail(arguments, "interrupted", "nothing was written; run the same command again", INTERRUPTED)
        except Exception as error:  # noqa: BLE001 - the last door: what leaves here unnamed is a fault of ours
            code = _unexpected(arguments, error)
        sys.exit(code)

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
        return fail(arguments, "usage", message, USAGE)


def _unexpected(arguments: list[str], error: Exception) -> int:
    # Imported here: an error of the library means that the library is loaded.
    from bnretrofit.errors import RetrofitError

    if isinstance(error, RetrofitError):
        return fail(arguments, type(error).__name__, str(error), error.exit_code)
    name = type(error).__name__
    out_of_disk = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if (
        isinstance(error, MemoryError)
        or name == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
        or out_of_disk
    ):
        remedy = "Free some disk, or use a smaller --batch-size"
        return fail(arguments, name, f"out of memory or disk: {error}. {remedy}", RESOURCES)
    import os
    import traceback

    if os.environ.get("BNRETROFIT_TRACEBACK"):
        traceback.print_exc()
    remedy = "Please report it with the output of 'bnretrofit env'; BNRETROFIT_TRACEBACK=1 shows where"
    return fail(arguments, name, f"internal error, {name}: {error}. {remedy}", INTERNAL)
