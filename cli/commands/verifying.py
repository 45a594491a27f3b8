"""`bnretrofit verify`."""

from pathlib import Path
from typing import Any

import click

from ..console import emit_json, note, results_only, show
from ..options import FILE, device_option, image_choice, image_options, json_option, model_choice, model_options


@click.command(name="verify")
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@model_options
@click.option("--model-b", help="The model of B, where its header does not say and it is not A's.")
@image_options(required=False, num_images=None)
@click.option(
    "--rtol", type=click.FloatRange(min=0), help="Allowed error relative to the largest output of the same sample."
)
@click.option("--atol", type=click.FloatRange(min=0), help="Allowed error in the output's unit.")
@device_option
@json_option
def command(
    a: Path,
    b: Path,
    *,
    model_b: str | None,
    rtol: float | None,
    atol: float | None,
    device: str,
    as_json: bool,
    **given: Any,
) -> int:
    """Are the checkpoints A and B the same function?

    Proved by their captured graphs where that is possible, and compared on the images and on random inputs. Exits with
    3 if not.

    \b
    Example:
      bnretrofit verify vgg16.pth vgg16-bn.safetensors -d images/val
      bnretrofit verify a.pth b.pth -m torchvision:vgg16 --rtol 1e-5
    """
    from bnretrofit.workflows.comparing import verify_checkpoints

    models = (model_choice(given), model_choice(given, model_b))
    with results_only():
        done = verify_checkpoints(a, b, models, image_choice(given), rtol=rtol, atol=atol, device=device)
    for text in done.notes:
        note(text)
    exit_code = 0 if done.report.passed else 3
    if as_json:
        document = {"report": done.report.to_json(), "accuracy": done.accuracy, "notes": list(done.notes)}
        emit_json("verify", document, status="ok" if done.report.passed else "failed", exit_code=exit_code)
        return exit_code
    show(str(done.report))
    if done.accuracy is not None:
        show(f"  accuracy    top-1 {100 * done.accuracy[0]:.2f} % and {100 * done.accuracy[1]:.2f} %")
    return exit_code
