"""`bnretrofit fold`."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from ..console import counted, emit_json, note, results_only, table
from ..options import FILE, device_option, image_choice, image_options, json_option, model_choice, model_options


@click.command(name="fold")
@click.argument("checkpoint", type=FILE)
@model_options
@click.option(
    "--like", metavar="MODEL", help="Give the result this architecture: a vgg16_bn folded --like vgg16 is a vgg16."
)
@image_options(required=False, num_images=64)
@click.option(
    "-o", "--output", type=FILE, required=True, help="The file to write: .safetensors, or .pth for a plain state_dict."
)
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--force", is_flag=True, help="Fold scales beyond the limit, and write even if verification fails.")
@device_option
@json_option
def command(
    checkpoint: Path,
    *,
    like: str | None,
    output: Path,
    overwrite: bool,
    force: bool,
    device: str,
    as_json: bool,
    **given: Any,
) -> int:
    """Fold every BatchNorm of CHECKPOINT into the weights before it.

    What retrofit inserted is taken out again, and the keys are the original's; in any other network its own norms are
    folded. What cannot be folded stays, and is named.

    \b
    Example:
      bnretrofit fold vgg16-bn.safetensors -o vgg16.safetensors
      bnretrofit fold vgg16_bn.pth -m torchvision:vgg16_bn --like torchvision:vgg16 -o vgg16.pth
    """
    from bnretrofit.workflows.folding import fold_checkpoint

    with results_only():
        done = fold_checkpoint(
            checkpoint,
            model_choice(given),
            image_choice(given),
            output,
            like=like,
            overwrite=overwrite,
            force=force,
            device=device,
        )
    report = done.compared.report
    for text in (*done.notes, *done.compared.notes):
        note(text)
    exit_code = 0 if report.passed else 3
    if as_json:
        document = {
            "model": done.model,
            "output": str(output),
            **done.plan.to_json(),
            "accuracy": done.compared.accuracy,
            "report": report.to_json(),
        }
        emit_json("fold", document, status="ok" if report.passed else "failed", exit_code=exit_code)
        return exit_code
    unchanged = sum(found.unchanged for found in done.plan.folds)
    channels = sum(found.channels for found in done.plan.folds)
    click.echo(f"model          {done.model}")
    if not done.plan.folds:
        click.echo("folded         nothing")
    kept = f"{unchanged} of {channels} channels keep their weights bit for bit"
    if done.plan.folds:
        click.echo(f"folded         {counted(len(done.plan.folds), 'BatchNorm')}; {kept}")
    worst = max(done.plan.folds, key=lambda found: found.scale_max, default=None)
    if worst is not None:
        click.echo(f"largest scale  {worst.scale_max:.4g} at '{worst.norm}'")
    for name in (found.layer for found in done.plan.folds if found.new_bias):
        click.echo(f"new key        {name.removesuffix('.layer')}.bias")
    if done.plan.leaves:
        click.echo(
            table([dataclasses.astuple(leave) for leave in done.plan.leaves], ("left in place", "kind", "because"))
        )
    click.echo(str(report))
    click.echo(f"wrote          {output}")
    return exit_code
