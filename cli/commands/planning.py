"""`bnretrofit plan`."""

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
    json_option,
)


@click.command(name="plan")
@click.argument("target", metavar="MODEL|CHECKPOINT")
@options
def command(target: str, *, as_json: bool, **given: Any) -> None:
    """Show where BatchNorm would be inserted, where not, and why. Computes and writes nothing.

    With --json, what it prints can be edited and given to `bnretrofit retrofit --plan`: the layers among its sites get
    a norm, all others do not.

    \b
    Example:
      bnretrofit plan torchvision:vgg16
      bnretrofit plan torchvision:vgg16 --json > plan.json
      bnretrofit plan timm:vgg16 --exclude 'pre_logits.*'
      bnretrofit plan torchvision:vgg16 --like torchvision:vgg16_bn
    """
    from bnretrofit.workflows.planned import plan_model

    path = FILE.convert(target, None, None)
    # What looks like a file is one, so that a missing file is called missing; a bare name may be a folder's, too.
    is_file = path.is_file() or path.suffix in CHECKPOINT_SUFFIXES or (path.is_dir() and "/" in target)
    with results_only():
        planned = plan_model(
            model_choice(given, given["model"] if is_file else target),
            plan_choice(given),
            checkpoint=path if is_file else None,
            img_size=given["img_size"],
            ordered=not as_json,
        )
    for text in (*planned.notes, *planned.plan.notes):
        note(text)
    if as_json:
        document = planned.plan.to_json()
        document["plan_schema_version"] = document.pop("schema_version")
        emit_json("plan", {"model": planned.model, "like": planned.like, **document})
        return
    show(plan_text(planned.plan, planned.order))
