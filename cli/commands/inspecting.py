"""`bnretrofit inspect`."""

import json
from pathlib import Path
from typing import Any

import click

from ..console import counted, emit_json, results_only, show, table
from ..options import FILE, json_option, state_options


@click.command(name="inspect")
@click.argument("file", type=FILE)
@state_options
@json_option
def command(file: Path, *, state_dict_key: str | None, use_ema: bool, as_json: bool) -> None:
    """Tell what a checkpoint is: its format, its tensors, and what bnretrofit wrote about it.

    Nothing from it is run, and no model is built. A file that is damaged or built to do harm is refused with 4.

    \b
    Example:
      bnretrofit inspect vgg16-bn.safetensors
      bnretrofit inspect checkpoint.pth.tar --no-use-ema
    """
    from bnretrofit.workflows.inspection import inspect_checkpoint

    with results_only():
        found = inspect_checkpoint(file, state_dict_key=state_dict_key, use_ema=use_ema)
    if as_json:
        emit_json("inspect", found.to_json())
        return
    show(f"file           {found.path}")
    show(f"format         {found.format}, {found.size / 2**20:,.1f} MiB")
    show(f"sha256         {found.sha256}")
    for text in found.notes:
        show(f"note           {text}")
    dtypes = ", ".join(f"{counted(number, 'tensor')} of {dtype}" for dtype, number in found.dtypes.items())
    show(f"tensors        {dtypes}; {found.values:,} values")
    if found.header is None:
        show("written by     another tool: it says nothing of its model")
    else:
        _show_header(found.header, intact=found.digest_checked)
    show(
        table(
            [(name, dtype, "x".join(map(str, shape)) or "scalar") for name, dtype, shape in found.tensors],
            ("tensor", "dtype", "shape"),
        )
    )


def _show_header(header: dict[str, Any], *, intact: bool) -> None:
    """What bnretrofit wrote: whatever of it is there, since it is shown even where it could not be used."""
    digest = "and the file is as it was written" if intact else "and the file bears no digest that holds"
    show(f"written by     bnretrofit {_at(header, 'versions', 'bnretrofit')}, {digest}")
    for title, keys in (
        ("stage", ("stage",)),
        ("model", ("model",)),
        ("num_classes", ("num_classes",)),
        ("submodule", ("submodule",)),
        ("made from", ("source", "file")),
        ("its sha256", ("source", "sha256")),
        ("preprocessing", ("preprocessing",)),
        ("calibration", ("calibration",)),
        ("versions", ("versions",)),
    ):
        value = _at(header, *keys)
        if value not in (None, "", {}):
            show(f"{title:<15}{value if isinstance(value, (str, int)) else json.dumps(value)}")
    plan = header.get("plan")
    if isinstance(plan, dict):
        show(f"plan           {counted(len(plan.get('sites', [])), 'BatchNorm')} inserted")


def _at(header: dict[str, Any], *keys: str) -> Any:
    value: Any = header
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
