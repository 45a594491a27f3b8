"""`bnretrofit export`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import counted, emit_json, note, results_only, show
from ..options import FILE, image_choice, image_options, json_option, model_choice, model_options

if TYPE_CHECKING:
    from bnretrofit.findings import Tried


@click.command(name="export")
@click.argument("checkpoint", type=FILE, required=False)
@model_options
@click.option(
    "--weights", metavar="NAME", help="Instead of CHECKPOINT: the library's own, DEFAULT or an enum or tag name."
)
@image_options(required=False, num_images=64)
@click.option(
    "-o",
    "--output",
    type=FILE,
    required=True,
    help="The file to write: .onnx, .pt2, .safetensors or .pth; or a folder for timm's local-dir layout.",
)
@click.option(
    "--format",
    type=click.Choice(["onnx", "pt2", "safetensors", "pth", "local-dir"]),
    help="Where the output's name does not say it.",
)
@click.option("--opset", type=click.IntRange(min=18), help="Of ONNX, where not the exporter's own choice.")
@click.option("--check-compile", is_flag=True, help="Also run the result through torch.compile, and compare.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--force", is_flag=True, help="Write the output even if it is not the same function.")
@json_option
def command(
    checkpoint: Path | None,
    *,
    output: Path,
    overwrite: bool,
    force: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Write CHECKPOINT for deployment, and run what was written in a process of its own.

    ONNX files and .pt2 programs take batches of any size. Norms stay norms: fold them first.

    \b
    Example:
      bnretrofit export vgg16-folded.safetensors -o vgg16.onnx -d images/val
      bnretrofit export --weights DEFAULT -m torchvision:squeezenet1_1 -o squeezenet.pt2
      bnretrofit export folded.safetensors -o my-vgg16 --format local-dir
    """
    from bnretrofit.workflows.exporting import ExportChoice, export_checkpoint

    if checkpoint is not None and given["weights"] is not None:
        raise click.UsageError("CHECKPOINT and --weights exclude each other.")
    choice = ExportChoice(given["format"], given["opset"], given["check_compile"], force)
    with results_only():
        done = export_checkpoint(
            checkpoint, model_choice(given), image_choice(given), output, choice, overwrite=overwrite
        )
    for text in done.notes:
        note(text)
    exit_code = 0 if done.passed else 3
    if as_json:
        document = {
            "model": done.model,
            "output": str(output),
            "format": done.format,
            "stage": done.stage,
            "shape": list(done.shape),
            "norms": done.norms,
            "passed": done.passed,
            "reason": done.reason,
            "tried": _as_json(done.tried),
            "compiled": None if done.compiled is None else _as_json(done.compiled),
            "notes": list(done.notes),
        }
        emit_json("export", document, status="ok" if done.passed else "failed", exit_code=exit_code)
        return exit_code
    show(f"model     {done.model}, {done.stage}")
    show(f"input     {' x '.join(map(str, done.shape[1:]))}, batches of any size")
    show(f"norms     {counted(done.norms, 'BatchNorm')} left")
    for what, found in (("run", done.tried), ("compiled", done.compiled or ())):
        for tried in found:
            show(f"{what:<9} {_line(tried)}")
    show(f"{'PASSED' if done.passed else 'FAILED: ' + str(done.reason)}")
    show(f"wrote     {output}")
    return exit_code


def _line(tried: "Tried") -> str:
    samples = counted(tried.samples, "sample")
    floor = "" if tried.floor is None else f"; rounding alone {tried.floor:.3g}"
    error = "bit-identical" if tried.bit_identical else f"relative error {tried.max_rel_error:.3g}"
    return f"{tried.kind}: {error} on {samples}{floor}"


def _as_json(tried: "tuple[Tried, ...]") -> Any:
    from bnretrofit.comparison import finite

    return finite([dataclasses.asdict(kind) for kind in tried])
