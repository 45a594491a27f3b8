"""Options that several commands share, spelled as timm spells them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

__all__ = [
    "device_option",
    "image_choice",
    "image_options",
    "json_option",
    "layer_options",
    "loading_options",
    "model_choice",
    "model_options",
    "preprocessing_options",
    "stacked",
    "state_options",
]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
FILE = click.Path(path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
device_option = click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda, cuda:1 …")


def stacked(*options: Decorator) -> Decorator:
    """Several options as one decorator, in the order in which they are to be listed."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class Floats(click.ParamType[tuple[float, ...]]):
    """One number, or one per channel: "0.5" or "0.485 0.456 0.406" or with commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Read the numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).replace(",", " ").split())
        except ValueError:
            self.fail(f"'{value}' is no number or list of numbers", param, ctx)


submodule_option = click.option(
    "--submodule",
    default="",
    metavar="NAME",
    help="Work on this part of the model alone, fed the images: a backbone.",
)

state_options = stacked(
    click.option(
        "--state-dict-key",
        metavar="KEY",
        help="Where in a training checkpoint the weights are, such as model or checkpoint.model; found otherwise.",
    ),
    click.option(
        "--use-ema/--no-use-ema",
        default=True,
        show_default=True,
        help="Take a training checkpoint's averaged weights, if it has any.",
    ),
)

model_options = stacked(
    click.option(
        "-m",
        "--model",
        help="torchvision:NAME, timm:NAME, hf-hub:ORG/NAME, local-dir:DIR, FILE.py:FACTORY, bnretrofit:NAME.",
    ),
    click.option(
        "--num-classes", type=click.IntRange(min=1), help="Outputs of the classifier, where not the library's."
    ),
    click.option("--trust-code", is_flag=True, help="Permit running FILE.py for its factory."),
    state_options,
    submodule_option,
)

layer_options = stacked(
    click.option(
        "--include", multiple=True, metavar="GLOB", help="Take only layers whose name matches; may be repeated."
    ),
    click.option(
        "--exclude", multiple=True, metavar="GLOB", help="Leave out layers whose name matches; may be repeated."
    ),
    click.option("--layers", default="conv,dense", show_default=True, help="Families of layers to take."),
    click.option(
        "--placement",
        type=click.Choice(["pre", "post"]),
        default="pre",
        show_default=True,
        help="Norms between a layer and its activation, or after the activation module.",
    ),
    click.option(
        "--like", metavar="MODEL", help="Place norms so that the result loads strictly into this architecture."
    ),
)

LAYER_KEYS = ("include", "exclude", "layers", "placement", "like")


loading_options = stacked(
    click.option(
        "-b", "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images per batch."
    ),
    click.option(
        "-j",
        "--workers",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Processes that decode images.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn at random."),
    click.option(
        "--max-bad-images",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Unreadable files allowed.",
    ),
)

preprocessing_options = stacked(
    click.option("--img-size", type=click.IntRange(min=1), help="Side of the input, instead of the model's own."),
    click.option("--mean", type=Floats(), help="Instead of the model's own: one number or one per channel."),
    click.option("--std", type=Floats(), help="Instead of the model's own: one number or one per channel."),
    click.option("--crop-pct", type=float, help="Share of the resized image that the crop keeps."),
    click.option(
        "--interpolation",
        type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
        help="Of the resize.",
    ),
)


def image_options(*, required: bool, num_images: int | None) -> Decorator:
    """The options that say which images are used, and how."""
    return stacked(
        click.option(
            "-d",
            "--data",
            "folder",
            type=FILE,
            required=required,
            help="Folder of images: one folder per class, or flat.",
        ),
        click.option(
            "-n",
            "--num-images",
            type=click.IntRange(min=1),
            default=num_images,
            show_default="all" if num_images is None else True,
            help="How many images are used, drawn at random with --seed.",
        ),
        loading_options,
        preprocessing_options,
    )


IMAGE_KEYS = (
    "folder",
    "batch_size",
    "workers",
    "num_images",
    "seed",
    "max_bad_images",
    "img_size",
    "mean",
    "std",
    "crop_pct",
    "interpolation",
)


def image_choice(options: dict[str, Any]) -> Any:
    """What the image options say."""
    from bnretrofit.workflows.images import ImageChoice

    given: dict[str, Any] = {key: options.get(key) for key in IMAGE_KEYS}
    return ImageChoice(**given)


def model_choice(options: dict[str, Any], name: str | None = None) -> Any:
    """What the model options say."""
    from bnretrofit.workflows.opening import ModelChoice

    return ModelChoice(
        name=name or options.get("model"),
        weights=options.get("weights"),
        num_classes=options["num_classes"],
        trust_code=options["trust_code"],
        submodule=options["submodule"],
        state_dict_key=options["state_dict_key"],
        use_ema=options["use_ema"],
    )


def plan_choice(options: dict[str, Any]) -> Any:
    """What the layer options say, or the plan file that is given instead.

    Raises:
        click.UsageError: Both are given.
    """
    from bnretrofit.workflows.planfile import read_plan_file
    from bnretrofit.workflows.planned import PlanChoice

    file = options.get("plan_file")
    if file is None:
        layers = tuple(part.strip() for part in options["layers"].split(",") if part.strip())
        return PlanChoice(options["include"], options["exclude"], layers, options["like"], options["placement"])
    context = click.get_current_context()
    for name in LAYER_KEYS:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--plan and --{name} exclude each other: the plan file says which layers.")
    return read_plan_file(file)
