"""`bnretrofit run`."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from ..console import emit_json, note, results_only, show, table
from ..options import FILE, layer_options, model_choice, model_options, plan_choice
from ..training_options import (
    data_choice,
    run_choice,
    run_folder_options,
    training_choice,
    training_data_options,
    training_options,
    weights_option,
)
from .finetuning import rows_of, scale_lines, shown


@click.command(name="run")
@click.argument("checkpoint", type=FILE, required=False)
@model_options
@weights_option
@layer_options
@training_data_options
@training_options
@run_folder_options
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
    from bnretrofit.workflows.running import run_checkpoint

    data = data_choice(checkpoint, given)
    run = run_choice(ctx, output, device, given, resume=resume)
    plan = plan_choice({**given, "plan_file": None})
    with results_only():
        done = run_checkpoint(checkpoint, model_choice(given), data, plan, training_choice(given), run, note)
    results, report = done.finetuned.results, done.compared.report
    for text in done.compared.notes:
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
            # Of training images it would tell nothing.
            "accuracy": None if done.judged is None else done.compared.accuracy,
            "judged": None if done.judged is None else dataclasses.asdict(done.judged),
            "done_before": list(done.done_before),
            "notes": list(done.finetuned.notes),
        }
        emit_json("run", document, status="ok" if report.passed else "failed", exit_code=exit_code)
        return exit_code
    rows = rows_of(results)
    if done.judged is not None:
        rows.append(("folded", rows[1][1], *shown(done.judged.loss, done.judged.top1)))
    show(f"model          {done.stock}")
    show(table(rows, ("", "epoch", "val loss", "val top-1")))
    for line in scale_lines(results.best):
        show(line)
    show(str(report))
    show(f"wrote          {done.folded}, which loads strictly into {done.stock}")
    return exit_code
