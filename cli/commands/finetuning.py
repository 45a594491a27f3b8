"""`bnretrofit finetune`."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import click

from ..console import emit_json, note, results_only, show, table
from ..options import FILE, model_choice, model_options
from ..training_options import (
    data_choice,
    dataset_options,
    run_choice,
    run_folder_options,
    training_choice,
    training_data_options,
    training_options,
    weights_option,
)


@click.command(name="finetune")
@click.argument("checkpoint", type=FILE, required=False)
@model_options
@weights_option
@training_data_options
@dataset_options
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
) -> None:
    """Fine-tune CHECKPOINT, retrofitted or not, on labelled images.

    The run's folder gets best.safetensors and last.safetensors, summary.csv, plot.png, args.yaml and what --resume
    needs. Runs by itself, or under `accelerate launch` and `torchrun` on several GPUs.

    \b
    Example:
      bnretrofit finetune vgg16-bn.safetensors -d images/train --val images/val -o run --epochs 20 --lr 0.1
      bnretrofit fold run -o vgg16-better.safetensors
    """
    from bnretrofit.training.devices import process_rank
    from bnretrofit.workflows.finetuning import finetune_checkpoint

    data = data_choice(checkpoint, given)
    run = run_choice(ctx, output, device, given, resume=resume)
    with results_only():
        done = finetune_checkpoint(checkpoint, model_choice(given), data, training_choice(given), run, note)
    if process_rank()[0] != 0:
        # One of several processes tells what all have done.
        return
    results = done.results
    if as_json:
        document = {
            "model": done.model,
            "output": str(output),
            "preprocessing": done.preprocessing.to_json(),
            "data": done.data,
            "rates": None if done.rates is None else done.rates.to_json(),
            "history": results.history.to_json(),
            **{name: dataclasses.asdict(getattr(results, name)) for name in ("best", "last")},
            "notes": list(done.notes),
        }
        emit_json("finetune", document)
        return
    show(f"model          {done.model}")
    show(f"preprocessing  {done.preprocessing}")
    if done.rates is not None:
        show(f"learning rate  {done.rates.chosen:.3g}, found by a range test:\n{done.rates}")
    if results.history.stopped is not None:
        show(f"stopped early  {results.history.stopped}")
    show(table(rows_of(results), ("", "epoch", "val loss", "val top-1")))
    for line in scale_lines(results.best):
        show(line)
    show(f"wrote          {output / 'best.safetensors'}, last.safetensors, summary.csv, plot.png")
    show(f"to fold it     {_how_to_fold(output, done.model)}")


def _how_to_fold(run: Path, model: str) -> str:
    """The command as a shell takes it; what opens a factory's network runs the factory's file again."""
    trust = ["--trust-code"] if model.partition(":")[0].endswith(".py") else []
    return shlex.join(["bnretrofit", "fold", str(run), *trust, "-o", "FOLDED.safetensors"])


def rows_of(results: Any) -> list[tuple[str, ...]]:
    """Before training, and both results with their statistics measured again."""
    first = results.history.epochs[0]
    rows: list[tuple[str, ...]] = [("before", "0", *shown(first.val_loss, first.val_top1))]
    for name in ("best", "last"):
        found = getattr(results, name)
        judged = found.evaluation
        rows.append(
            (name, str(found.epoch.epoch), *shown(*((None, None) if judged is None else (judged.loss, judged.top1))))
        )
    return rows


def scale_lines(best: Any) -> list[str]:
    """How strongly the norms of a result scale, and how far their statistics had lagged behind."""
    lines = [] if best.scales is None else [f"scales         {best.scales}"]
    if best.variance_ratios is not None:
        low, high = best.variance_ratios
        lines.append(f"statistics     measured again; running over measured variance was {low:.3g} to {high:.3g}")
    return lines


def shown(loss: float | None, top1: float | None) -> tuple[str, str]:
    """Loss and accuracy as text."""
    return "-" if loss is None else f"{loss:.4f}", "-" if top1 is None else f"{100 * top1:.2f} %"
