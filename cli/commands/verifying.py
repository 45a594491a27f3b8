"""`bnretrofit verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import emit_json, note, results_only, show, table
from ..options import (
    FILE,
    device_option,
    image_choice,
    image_options,
    json_option,
    model_choice,
    model_options,
    stacked,
)

if TYPE_CHECKING:
    from bnretrofit.comparison import Report
    from bnretrofit.verification import Checks
    from bnretrofit.workflows.opening import ModelChoice

tolerance_options = stacked(
    click.option(
        "--rtol", type=click.FloatRange(min=0), help="Allowed error relative to the largest output of the same sample."
    ),
    click.option("--atol", type=click.FloatRange(min=0), help="Allowed error in the output's unit."),
)

search_options = stacked(
    click.option("--per-layer", is_flag=True, help="Compare what each layer gives, and name the first that diverges."),
    click.option(
        "--adversarial",
        "adversarial_steps",
        type=click.IntRange(min=0),
        default=0,
        metavar="STEPS",
        help="Search for the worst input by so many steps of gradient ascent on the difference.",
    ),
    click.option(
        "--mode",
        type=click.Choice(["eval", "train"]),
        default="eval",
        show_default=True,
        help="train: also tell how far batch statistics move B's outputs, by batch size, and if norms train alike.",
    ),
    click.option(
        "--inputs", type=FILE, metavar="FILE", help="Run the inputs that --save-inputs kept, instead of images."
    ),
    click.option(
        "--save-inputs",
        type=FILE,
        metavar="FILE",
        help="Where A and B differ, write the input of each kind on which they differ most, as safetensors.",
    ),
    click.option(
        "--certify",
        type=FILE,
        metavar="FILE",
        help="Write what was proved, channel by channel, as JSON, unless A and B differ.",
    ),
    click.option(
        "--certificate",
        type=FILE,
        metavar="FILE",
        help="Hold what --certify wrote against A and B, and do nothing else: no image is run.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace the file of --save-inputs or --certify if it exists."),
)


@click.command(name="verify")
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@model_options
@click.option("--model-b", help="The model of B, where its header does not say and it is not A's.")
@image_options(required=False, num_images=None)
@tolerance_options
@search_options
@device_option
@json_option
def command(
    a: Path,
    b: Path,
    *,
    model_b: str | None,
    inputs: Path | None,
    save_inputs: Path | None,
    certify: Path | None,
    certificate: Path | None,
    overwrite: bool,
    device: str,
    as_json: bool,
    **given: Any,
) -> int:
    """Are the checkpoints A and B the same function?

    Proved by their captured graphs where that is possible, and compared on the images and on random and extreme inputs.
    One of the two may be an ONNX file. Exits with 3 if not.

    \b
    Example:
      bnretrofit verify vgg16.pth vgg16-bn.safetensors -d images/val
      bnretrofit verify a.pth b.pth -m torchvision:vgg16 --rtol 1e-5
      bnretrofit verify a.pth b.pth -m torchvision:vgg16 -d images/val --per-layer --save-inputs worst.safetensors
      bnretrofit verify a.pth a.onnx -m torchvision:vgg16 -d images/val
    """
    from bnretrofit.publishing import check_place
    from bnretrofit.workflows.certifying import certificate_of, write_certificate
    from bnretrofit.workflows.comparing import verify_checkpoints
    from bnretrofit.workflows.input_files import Kept

    models = (model_choice(given), model_choice(given, model_b))
    if certificate is not None:
        return _hold(certificate, a, b, models, given, device, as_json=as_json)
    with results_only():
        read = (a, b, inputs, *(model.read_from for model in models))
        if certify is not None:
            check_place(certify, overwrite=overwrite, inputs=read)
        kept = None if save_inputs is None else Kept(save_inputs, overwrite=overwrite, inputs=read)
        checks = _checks(given, None if kept is None else kept.worst)
        done = verify_checkpoints(a, b, models, image_choice(given), checks, replayed=inputs, device=device)
        written = kept is not None and kept.write()
        certified = certify is not None and done.report.passed
        if certify is not None and certified:
            document = certificate_of(a, b, models, image_choice(given), device)
            write_certificate(certify, document, overwrite=overwrite)
    for text in done.notes:
        note(text)
    exit_code = 0 if done.report.passed else 3
    if as_json:
        document = {
            "report": done.report.to_json(),
            "accuracy": done.accuracy,
            "inputs": str(save_inputs) if written else None,
            "certificate": str(certify) if certified else None,
            "notes": list(done.notes),
        }
        emit_json("verify", document, status="ok" if done.report.passed else "failed", exit_code=exit_code)
        return exit_code
    _show_layers(done.report)
    show(str(done.report))
    if done.accuracy is not None:
        show(f"  accuracy    top-1 {100 * done.accuracy[0]:.2f} % and {100 * done.accuracy[1]:.2f} %")
    if save_inputs is not None:
        none = "none kept: the outputs are equal on all" if done.report.bit_identical else "none could be kept"
        show(f"  inputs      {f'run them again with --inputs {save_inputs}' if written else none}")
    if certified:
        show(f"  certificate {certify}")
    return exit_code


def _hold(
    path: Path, a: Path, b: Path, models: "tuple[ModelChoice, ModelChoice]", given: Any, device: str, *, as_json: bool
) -> int:
    from bnretrofit.workflows.certifying import check_certificate

    with results_only():
        found = check_certificate(path, a, b, models, image_choice(given), device)
    norms, tensors = found["norms"], found["tensors"] or []
    channels, identity = (sum(norm[key] for norm in norms) for key in ("channels", "identity_channels"))
    if as_json:
        figures = {"norms": len(norms), "channels": channels, "identity_channels": identity, "tensors": len(tensors)}
        document = {"certificate": str(path), "proved": found["proved"], "difference": found["difference"], **figures}
        emit_json("verify", document)
        return 0
    level = "proved equal for every finite input" if found["proved"] else f"not proved equal: {found['difference']}"
    show(f"HOLDS: {level}")
    show(f"  norms       {len(norms)}; {identity} of their {channels} channels are the kernel's identity")
    show(f"  tensors     {sum(tensor['equal'] for tensor in tensors)} of {len(tensors)} are equal")
    return 0


def _checks(given: dict[str, Any], worst: dict[str, Any] | None) -> "Checks":
    from bnretrofit.verification import Checks

    return Checks(
        given["rtol"],
        given["atol"],
        floor=True,
        per_layer=given["per_layer"],
        adversarial_steps=given["adversarial_steps"],
        training=given["mode"] == "train",
        worst=worst,
    )


def _show_layers(report: "Report") -> None:
    if not report.layers:
        return
    rows = [
        (
            layer.layer,
            "" if layer.reference == layer.layer else layer.reference,
            f"{layer.max_abs_error:.3g}",
            f"{layer.max_rel_error:.3g}",
            "?" if layer.floor is None else f"{layer.floor:.3g}",
            "diverges" if layer.diverges else "",
        )
        for layer in report.layers
    ]
    show(table(rows, ("layer of B", "of A", "error", "relative", "rounding", "")))
    show("")
