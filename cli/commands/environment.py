"""`bnretrofit env`."""

import click

from ..console import emit_json, show
from ..options import json_option


@click.command(name="env")
@json_option
def command(*, as_json: bool) -> None:
    """Print what a bug report needs: versions, processor, devices, and whether the kernel admits an exact identity.

    \b
    Example:
      bnretrofit env
    """
    from bnretrofit.workflows.environment import describe_environment

    found = describe_environment()
    if as_json:
        emit_json("env", found)
        return
    width = max(len(name) for name in found)
    for name, value in found.items():
        show(f"{name.ljust(width)}  {value}")
