"""`bnretrofit run`."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from ..console import emit_json, note, results_only, show, table
from ..options import FILE, image_choice, json_option, layer_options, model_choice, model_options, plan_choice
from ..training_options import config_option, run_choice, training_choice, training_data_options, training_options
from .finetuning import rows_of, scale_lines, shown


@click.command(name="run")
@click.argument("checkpoint", type=FILE, required=False)
@model_options
@click.option(
    "--weights", metavar="NAME", help="Instead of CHECKPOINT: the library's own, DEFAULT or an enum or tag name."
)
@layer_options
@training_data_options
@training_options
@config_option
@click.option("-o", "--output", type=FILE, required=True, help="The run's folder, which is made.")
@click.option("--resume", is_flag=True, help="Go on with the run in that folder, as if it had never stopped.")
@click.option("--device", help="cpu; by default what there is.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    checkpoint: Path | None,
    *,
    output: Path,
    resume: bool,
    device: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Retrofit, fine-tune, fold and verify CHECKPOINT in one go.

    It ends with RUN/folded.safetensors, which loads strictly into the architecture that CHECKPOINT is of.

    \b
    Example:
      bnretrofit run vgg16.pth -m torchvision:vgg16 -d images/train --val images/val -o run --epochs 20 --lr 0.1
    """
    from bnretrofit.workflows.finetuning import DataChoice
    from bnretrofit.workflows.running import run_checkpoint

    if checkpoint is not None and given["weights"] is not None:
        raise click.UsageError("CHECKPOINT and --weights exclude each other.")
    if given["val"] is not None and given["val_split"] is not None:
        raise click.UsageError("--val and --val-split exclude each other.")
    data = DataChoice(image_choice(given), *(given[name] for name in ("root", "val", "val_split", "aug")))
    run = run_choice(ctx, output, device, given, resume=resume)
    plan = plan_choice({**given, "plan_file": None})
    with results_only():
        done = run_checkpoint(checkpoint, model_choice(given), data, plan, training_choice(given), run, note)
    results, report = done.finetuned.results, done.compared.report
    for text in (*done.finetuned.notes, *done.compared.notes):
        note(text)
    exit_code = 0 if report.passed else 3
    if as_json:
        document = {
            "model": done.stock,
            "output": str(output),
            "folded": str(done.folded),
            "history": results.history.to_json(),
            **{name: dataclasses.asdict(getattr(results, name)) for name in ("best", "last")},
            "report": report.to_json(),
            "accuracy": done.compared.accuracy,
            "done_before": list(done.done_before),
            "notes": list(done.finetuned.notes),
        }
        emit_json("run", document, status="ok" if report.passed else "failed", exit_code=exit_code)
        return exit_code
    rows = rows_of(results)
    if done.compared.accuracy is not None:
        rows.append(("folded", rows[1][1], "", shown(None, done.compared.accuracy[1])[1]))
    show(f"model          {done.stock}")
    show(table(rows, ("", "epoch", "val loss", "val top-1")))
    for line in scale_lines(results.best):
        show(line)
    show(str(report))
    show(f"wrote          {done.folded}, which loads strictly into {done.stock}")
    return exit_code
