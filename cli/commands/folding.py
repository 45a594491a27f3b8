"""`bnretrofit fold`."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from ..console import counted, emit_json, note, results_only, show, table
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
@click.option(
    "--recalibrate",
    "recalibrate_on",
    type=FILE,
    metavar="DATA",
    help="First measure the running statistics again, on up to 1000 images of this folder.",
)
@click.option(
    "--allow-new-layers", is_flag=True, help="Fold into zero-padded convs too, which then pad with a value per channel."
)
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
    allow_new_layers: bool,
    recalibrate_on: Path | None,
    device: str,
    as_json: bool,
    **given: Any,
) -> int:
    """Fold every BatchNorm of CHECKPOINT into the weights before or after it.

    What retrofit inserted is taken out again, and the keys are the original's; in any other network its own norms are
    folded. What cannot be folded stays, and is named.

    \b
    Example:
      bnretrofit fold vgg16-bn.safetensors -o vgg16.safetensors
      bnretrofit fold vgg16_bn.pth -m torchvision:vgg16_bn --like torchvision:vgg16 -o vgg16.pth
    """
    from bnretrofit.workflows.folding import FoldChoice, fold_checkpoint

    with results_only():
        done = fold_checkpoint(
            checkpoint,
            model_choice(given),
            image_choice(given),
            output,
            FoldChoice(like, force, allow_new_layers, recalibrate_on),
            overwrite=overwrite,
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
            "new_keys": list(done.new_keys),
            "recalibrated": None if done.recalibrated is None else ratio_figures(done.recalibrated),
            "accuracy": done.compared.accuracy,
            "report": report.to_json(),
            "notes": list(done.notes),
        }
        emit_json("fold", document, status="ok" if report.passed else "failed", exit_code=exit_code)
        return exit_code
    unchanged = sum(found.unchanged for found in done.plan.folds)
    channels = sum(found.channels for found in done.plan.folds)
    show(f"model          {done.model}")
    if not done.plan.folds:
        show("folded         nothing")
    kept = f"{unchanged} of {channels} channels keep their weights bit for bit"
    if done.plan.folds:
        show(f"folded         {counted(len(done.plan.folds), 'BatchNorm')}; {kept}")
    if done.plan.scales is not None:
        show(f"scales         {done.plan.scales}")
    if done.recalibrated is not None:
        show(f"recalibrated   {ratio_text(done.recalibrated)}")
    for key in done.new_keys:
        show(f"new key        {key}")
    if done.plan.leaves:
        show(table([dataclasses.astuple(leave) for leave in done.plan.leaves], ("left in place", "kind", "because")))
    show(str(report))
    show(f"wrote          {output}")
    return exit_code


def ratio_figures(recalibrated: Any) -> dict[str, Any]:
    """How far the running variances were from those that were measured again."""
    worst = {name: (float(ratio.min()), float(ratio.max())) for name, ratio in recalibrated.ratios.items()}
    least, most = min(worst, key=lambda name: worst[name][0]), max(worst, key=lambda name: worst[name][1])
    return {
        "passes": recalibrated.passes,
        "least_ratio": worst[least][0],
        "least_norm": least,
        "largest_ratio": worst[most][1],
        "largest_norm": most,
    }


def ratio_text(recalibrated: Any) -> str:
    """The same in words."""
    found = ratio_figures(recalibrated)
    low = f"{found['least_ratio']:.4g} at '{found['least_norm']}'"
    high = f"{found['largest_ratio']:.4g} at '{found['largest_norm']}'"
    return f"in {found['passes']} passes; running over measured variance from {low} to {high}"
