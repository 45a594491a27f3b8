"""`bnretrofit demo`."""

from pathlib import Path

import click

from ..console import emit_json
from ..options import FILE, json_option


@click.command(name="demo")
@click.option(
    "-o", "--output", type=FILE, help="Keep the files in this folder.  [default: a temporary one, removed at the end]"
)
@json_option
def command(*, output: Path | None, as_json: bool) -> None:
    """Tell the whole story on the bundled checkpoint, offline: plan, retrofit, verify, fold, verify.

    \b
    Example:
      bnretrofit demo
    """
    from bnretrofit.workflows.demonstration import demonstrate

    told = demonstrate(output, say=(lambda _line: None) if as_json else click.echo)
    if as_json:
        emit_json("demo", told)
