"""`bnretrofit retrofit`."""

from pathlib import Path
from typing import Any

import click

from ..console import counted, emit_json, note, results_only, show
from ..options import (
    FILE,
    device_option,
    image_choice,
    image_options,
    json_option,
    layer_options,
    model_choice,
    model_options,
    plan_choice,
)


@click.command(name="retrofit")
@click.argument("checkpoint", type=FILE, required=False)
@model_options
@click.option(
    "--weights", metavar="NAME", help="Instead of CHECKPOINT: the library's own, DEFAULT or an enum or tag name."
)
@layer_options
@click.option(
    "--plan",
    "plan_file",
    type=FILE,
    metavar="FILE",
    help="Follow an edited plan of `plan --json`, instead of the five options above.",
)
@image_options(required=True, num_images=1000)
@click.option(
    "-o", "--output", type=FILE, required=True, help="The file to write: .safetensors, or .pth for a plain state_dict."
)
@click.option(
    "--init",
    type=click.Choice(["identity", "standardize"]),
    default="identity",
    show_default=True,
    help="Outputs unchanged; or, for networks not yet trained, norms that put out mean 0 and variance 1.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--force", is_flag=True, help="Write the output even if verification fails.")
@device_option
@json_option
def command(
    checkpoint: Path | None, *, output: Path, overwrite: bool, force: bool, device: str, as_json: bool, **given: Any
) -> int:
    """Insert BatchNorm after conv and dense layers of CHECKPOINT, with its outputs unchanged.

    With --init standardize the outputs change: a network that is not yet trained starts from norms that are calibrated
    layer by layer, however badly it was initialised.

    \b
    Example:
      bnretrofit retrofit vgg16.pth -m torchvision:vgg16 -d images/train -o vgg16-bn.safetensors
      bnretrofit retrofit vgg16.pth -m torchvision:vgg16 --like torchvision:vgg16_bn -d images/train -o bn.pth
      bnretrofit retrofit vgg16.pth --plan plan.json -d images/train -o vgg16-bn.safetensors
      bnretrofit retrofit untrained.pth -m torchvision:vgg16 --init standardize -d images/train -o bn.safetensors
    """
    from bnretrofit.workflows.retrofitting import RetrofitChoice, retrofit_checkpoint

    if checkpoint is not None and given["weights"] is not None:
        raise click.UsageError("CHECKPOINT and --weights exclude each other.")
    with results_only():
        done = retrofit_checkpoint(
            checkpoint,
            model_choice(given),
            image_choice(given),
            plan_choice(given),
            output,
            RetrofitChoice(given["init"], force),
            overwrite=overwrite,
            device=device,
        )
    for text in (*done.notes, *done.plan.notes):
        note(text)
    exit_code = 0 if done.report.passed else 3
    if as_json:
        document = {
            "model": done.model,
            "output": str(output),
            "init": given["init"],
            "sites": len(done.plan.sites),
            "plan": done.plan.to_json(),
            "preprocessing": done.preprocessing.to_json(),
            "calibration_images": done.calibration_images,
            "calibration": done.calibration,
            "report": done.report.to_json(),
            "notes": list(done.notes),
        }
        emit_json("retrofit", document, status="ok" if done.report.passed else "failed", exit_code=exit_code)
        return exit_code
    show(f"model          {done.model}")
    show(f"preprocessing  {done.preprocessing}")
    show(f"calibrated     {done.calibration_images} images")
    # What a plan file leaves out, `bnretrofit plan` would take.
    why = " (bnretrofit plan says why)" if given["plan_file"] is None else ""
    left = f"{counted(len(done.plan.skips), 'layer')} left alone{why}"
    show(f"inserted       {counted(len(done.plan.sites), 'BatchNorm')}; {left}")
    show(str(done.report))
    show(f"wrote          {output}")
    return exit_code
