"""`bnretrofit demo`."""

from pathlib import Path

import click

from ..console import emit_json
from ..options import FILE, json_option


@click.command(name="demo")
@click.option("-o", "--output", type=FILE, help="Keep checkpoints and images in this folder, to try the commands on.")
@json_option
def command(*, output: Path | None, as_json: bool) -> None:
    """Tell the whole story on the bundled checkpoint, offline: plan, retrofit, verify, fold, verify.

    \b
    Example:
      bnretrofit demo
      bnretrofit demo -o digits
    """
    from bnretrofit.workflows.demonstration import demonstrate

    told = demonstrate(output, say=(lambda _line: None) if as_json else click.echo)
    if as_json:
        emit_json("demo", told)
