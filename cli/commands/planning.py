"""`bnretrofit plan`."""

from pathlib import Path
from typing import Any

import click

from ..console import emit_json, note, results_only, show
from ..options import (
    FILE,
    json_option,
    layer_options,
    model_choice,
    plan_choice,
    stacked,
    state_options,
    submodule_option,
)
from ..tree import plan_text

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

options = stacked(
    click.option("-m", "--model", "model", help="The model, where the argument is a checkpoint without a header."),
    click.option(
        "--num-classes", type=click.IntRange(min=1), help="Outputs of the classifier, where not the library's."
    ),
    click.option("--trust-code", is_flag=True, help="Permit running FILE.py for its factory."),
    state_options,
    submodule_option,
    layer_options,
    click.option(
        "--img-size", type=click.IntRange(min=1), help="Side of the example input, instead of the model's own."
    ),
    click.option("--graph", type=FILE, metavar="FILE", help="Also draw the plan: .svg, or .html with the table."),
    click.option("--overwrite", is_flag=True, help="Replace the file of --graph if it exists."),
    json_option,
)


@click.command(name="plan")
@click.argument("target", metavar="MODEL|CHECKPOINT")
@options
def command(target: str, *, as_json: bool, **given: Any) -> None:
    """Show where BatchNorm would be inserted, where not, and why. Computes nothing, and writes at most a picture.

    With --json, what it prints can be edited and given to `bnretrofit retrofit --plan`: the layers among its sites get
    a norm, all others do not.

    \b
    Example:
      bnretrofit plan torchvision:vgg16
      bnretrofit plan torchvision:vgg16 --json > plan.json
      bnretrofit plan timm:vgg16 --exclude 'pre_logits.*'
      bnretrofit plan torchvision:vgg16 --like torchvision:vgg16_bn
      bnretrofit plan timm:vit_tiny_patch16_224 --graph vit.html
    """
    from bnretrofit.workflows.drawing import check_picture, draw_plan
    from bnretrofit.workflows.planned import plan_model

    path = FILE.convert(target, None, None)
    # What looks like a file is one, so that a missing file is called missing; a bare name may be a folder's, too.
    is_file = path.is_file() or path.suffix in CHECKPOINT_SUFFIXES or (path.is_dir() and "/" in target)
    picture: Path | None = given["graph"]
    with results_only():
        model = model_choice(given, given["model"] if is_file else target)
        if picture is not None:
            read = (path if is_file else None, model.read_from)
            check_picture(picture, overwrite=given["overwrite"], inputs=read)
        planned = plan_model(
            model,
            plan_choice(given),
            checkpoint=path if is_file else None,
            img_size=given["img_size"],
            with_graph=picture is not None or not as_json,
        )
        if picture is not None:
            draw_plan(planned, picture, overwrite=given["overwrite"])
    for text in (*planned.notes, *planned.plan.notes):
        note(text)
    if as_json:
        document = planned.plan.to_json()
        document["plan_schema_version"] = document.pop("schema_version")
        drawn = {} if picture is None else {"graph": str(picture)}
        emit_json("plan", {"model": planned.model, "like": planned.like, **drawn, **document})
        return
    show(plan_text(planned.plan, planned.order))
    if picture is not None:
        show(f"\nwrote {picture}")
