"""Options of training, spelled as timm's training script spells them."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .options import FILE, loading_options, preprocessing_options, stacked

__all__ = ["config_option", "run_choice", "training_choice", "training_data_options", "training_options"]


class Rate(click.ParamType[float | str]):
    """A learning rate, or "auto"."""

    name = "number|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Read the number."""
        if value == "auto":
            return "auto"
        try:
            return float(value)
        except (TypeError, ValueError):
            self.fail(f"'{value}' is neither a number nor auto", param, ctx)


training_data_options = stacked(
    click.option(
        "-d",
        "--data",
        "root",
        required=True,
        metavar="TRAIN",
        help="Folder with a folder per class; or a data set by timm's name: hfds/NAME, tfds/NAME, wds/…, torch/NAME.",
    ),
    click.option("--val", metavar="VAL", help="The same for validation; a split's name for a data set of timm's."),
    click.option(
        "--val-split", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Without --val: share set aside."
    ),
    click.option(
        "--aug",
        type=click.Choice(["auto", "none", "light", "timm"]),
        default="auto",
        show_default=True,
        help="Augmentation; light mirrors and shifts, timm crops and resizes too. auto: light up to 64 px.",
    ),
    loading_options,
    preprocessing_options,
)

training_options = stacked(
    click.option("--epochs", type=click.IntRange(min=0), default=10, show_default=True, help="Passes over the images."),
    click.option("--steps", type=click.IntRange(min=0), help="Optimiser steps in all, instead of --epochs."),
    click.option("--lr", type=Rate(), default=0.01, show_default=True, help="Learning rate; auto finds one first."),
    click.option("--opt", default="sgd", show_default=True, help="Optimiser, by timm's name: sgd, adamw …"),
    click.option("--momentum", type=float, default=0.9, show_default=True, help="Of the optimiser."),
    click.option("--weight-decay", type=float, default=5e-4, show_default=True, help="On weights of layers alone."),
    click.option(
        "--sched",
        type=click.Choice(["cosine", "linear", "constant"]),
        default="cosine",
        show_default=True,
        help="How the rate falls.",
    ),
    click.option("--min-lr", type=float, default=0.0, show_default=True, help="Where the rate falls to."),
    click.option("--warmup-steps", type=click.IntRange(min=0), help="Steps in which the rate rises; 5 % by default."),
    click.option("--smoothing", type=float, default=0.0, show_default=True, help="Label smoothing."),
    click.option("--mixup", type=float, default=0.0, show_default=True, help="Alpha of mixup."),
    click.option("--cutmix", type=float, default=0.0, show_default=True, help="Alpha of cutmix."),
    click.option("--model-ema-decay", type=float, help="Give the weights' average with this decay as the result."),
    click.option("--clip-grad", type=float, help="Largest norm of the gradient."),
    click.option(
        "--grad-accum-steps", type=click.IntRange(min=1), default=1, show_default=True, help="Batches per step."
    ),
    click.option(
        "--train",
        type=click.Choice(["all", "bn", "head", "bn+head"]),
        default="all",
        show_default=True,
        help="What is trained.",
    ),
    click.option(
        "--bn-stats",
        type=click.Choice(["auto", "batch", "frozen"]),
        default="auto",
        show_default=True,
        help="Norms use the statistics of each batch, or their running ones; auto: frozen for small batches.",
    ),
    click.option(
        "--bn-momentum", type=float, help="Weight of a step in the running statistics.  [default: each norm's]"
    ),
    click.option("--dropout", type=float, help="Rate of the network's dropouts.  [default: as they are]"),
    click.option(
        "--amp", type=click.Choice(["no", "bf16", "fp16"]), default="no", show_default=True, help="Mixed precision."
    ),
    click.option("--channels-last", is_flag=True, help="Convolutions with channels last in memory."),
    click.option("--patience", type=click.IntRange(min=1), help="Stop after so many epochs without a better accuracy."),
    click.option("--tensorboard", is_flag=True, help="Write event files for TensorBoard into the run's folder."),
    click.option("--save-steps", type=click.IntRange(min=1), help="Save the state so often, besides each epoch's end."),
)

SETTINGS = {
    **{name: name for name in ("epochs", "steps", "lr", "opt", "momentum", "weight_decay", "sched", "min_lr")},
    **{name: name for name in ("warmup_steps", "mixup", "cutmix", "clip_grad", "grad_accum_steps", "train")},
    **{name: name for name in ("bn_stats", "bn_momentum", "dropout", "amp", "channels_last", "patience", "seed")},
    "smoothing": "label_smoothing",
    "model_ema_decay": "ema_decay",
}

NOT_OF_A_RUN = ("config", "output", "resume", "as_json")


def training_choice(options: dict[str, Any]) -> Any:
    """What the training options say; with `--lr auto` the rate is left to be found."""
    from bnretrofit.training import TrainingConfig

    given = {setting: options[name] for name, setting in SETTINGS.items()}
    if given["lr"] == "auto":
        del given["lr"]
    return TrainingConfig(**given)


def run_choice(ctx: click.Context, output: Path, device: str | None, options: dict[str, Any], *, resume: bool) -> Any:
    """How a run is kept, by a command's options."""
    from bnretrofit.workflows.finetuning import RunChoice

    return RunChoice(
        output,
        resume,
        options["save_steps"],
        find_rate=options["lr"] == "auto",
        device=device,
        options=given_options(ctx),
        tensorboard=options["tensorboard"],
    )


def read_config(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    """Take a file's values as the options' defaults: what is given on the command line wins."""
    if path is None:
        return
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise click.UsageError(f"--config {path} cannot be read: {said}") from error
    if not isinstance(document, dict):
        raise click.UsageError(f"--config {path} holds no options: it is to be lines such as 'batch-size: 64'")
    known = {param.name for param in ctx.command.params} - set(NOT_OF_A_RUN)
    given = {str(key).replace("-", "_"): value for key, value in document.items()}
    given = {ALIASES.get(key, key): value for key, value in given.items()}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise click.UsageError(f"--config {path} names what is no option: {', '.join(unknown)}")
    params = {param.name: param for param in ctx.command.params}
    ctx.default_map = {key: _as_given(path, params[key], value) for key, value in given.items() if value is not None}


ALIASES = {"data": "root"}
PLACES = ("root", "val")

config_option = click.option(
    "--config",
    type=FILE,
    is_eager=True,
    expose_value=False,
    callback=read_config,
    help="YAML file of options, such as a run's args.yaml; what is given here wins.",
)


def _as_given(path: Path, param: click.Parameter, value: Any) -> Any:
    """A value as the command line would have it."""
    values = value if isinstance(value, list) else [value]
    if any(isinstance(each, (dict, list)) for each in values):
        raise click.UsageError(f"--config {path} gives more than a value to '{param.name}'")
    if param.multiple:
        return [str(each) for each in values]
    if isinstance(value, bool) and isinstance(param.type, click.Choice):
        # YAML takes a bare no for False.
        return "yes" if value else "no"
    return value if isinstance(value, bool) else " ".join(map(str, values))


def given_options(ctx: click.Context) -> dict[str, Any]:
    """The options that are not at their defaults, as `--config` takes them."""
    names = {name: alias for alias, name in ALIASES.items()}
    found: dict[str, Any] = {}
    for name, value in ctx.params.items():
        if name in NOT_OF_A_RUN or ctx.get_parameter_source(name) is ParameterSource.DEFAULT:
            continue
        plain = list(value) if isinstance(value, tuple) else value
        if isinstance(value, Path) or (name in PLACES and Path(str(value)).exists()):
            # Another run may be begun from another folder.
            plain = str(Path(value).resolve())
        found[names.get(name, name).replace("_", "-")] = plain
    return found
