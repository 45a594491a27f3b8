"""Options of training, spelled as timm's training script spells them."""

import re
from pathlib import Path
from typing import Any

import click

from .config_file import config_option, given_options, instead_of, launched_with
from .options import FILE, image_choice, json_option, loading_options, preprocessing_options, stacked

__all__ = [
    "data_choice",
    "dataset_options",
    "in_options",
    "run_choice",
    "run_folder_options",
    "training_choice",
    "training_data_options",
    "training_options",
    "weights_option",
]


EPOCHS = 10


class Rate(click.ParamType[float | str]):
    """A learning rate, or "auto"."""

    name = "number|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Read the number."""
        if str(value).strip().lower() == "auto":
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

dataset_options = stacked(
    click.option(
        "--data-dir", metavar="DIR", help="Where the files of a data set of timm's are, such as torch/cifar10."
    ),
    click.option(
        "--train-split", metavar="NAME", help="Of a data set of timm's: its split to train on.  [default: train]"
    ),
)

training_options = stacked(
    click.option(
        "--epochs",
        type=click.IntRange(min=0),
        default=EPOCHS,
        show_default=True,
        callback=instead_of("steps", EPOCHS),
        help="Passes over the images.",
    ),
    click.option(
        "--steps",
        type=click.IntRange(min=0),
        callback=instead_of("epochs"),
        help="Optimiser steps in all, instead of --epochs.",
    ),
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
    click.option(
        "--model-ema-warmup", is_flag=True, help="Let the average follow at once, and slow down to its decay."
    ),
    click.option("--clip-grad", type=float, help="Largest norm of the gradient."),
    click.option(
        "--grad-accum-steps",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        callback=launched_with("ACCELERATE_GRADIENT_ACCUMULATION_STEPS"),
        help="Batches per step.",
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
        "--amp",
        type=click.Choice(["no", "bf16", "fp16"]),
        default="no",
        show_default=True,
        callback=launched_with("ACCELERATE_MIXED_PRECISION"),
        help="Mixed precision.",
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
    "model_ema_warmup": "ema_warmup",
}


def training_choice(options: dict[str, Any]) -> Any:
    """What the training options say; with `--lr auto` the rate is one that stands for the one to be found."""
    from bnretrofit.training import TrainingConfig

    given = {setting: options[name] for name, setting in SETTINGS.items()}
    if given["lr"] == "auto":
        # The one that is found is held against --min-lr in its turn.
        given["lr"] = max(0.01, given["min_lr"])
    return TrainingConfig(**given)


def in_options(text: str, settings: tuple[str, ...]) -> str:
    """What the library says of settings, as users of the command line know them.

    Args:
        text: The library's sentence.
        settings: Those that it speaks of by their names in Python, alone or as name=value.
    """
    options = {setting: f"--{name.replace('_', '-')}" for name, setting in SETTINGS.items() if setting in settings}
    if not options:
        return text
    pattern = rf"(?<![\w-])({'|'.join(options)})\b(=?)"
    return re.sub(pattern, lambda found: options[found[1]] + (" " if found[2] else ""), text)


def data_choice(checkpoint: Path | None, options: dict[str, Any]) -> Any:
    """What is learnt from, by a command's options; what excludes each other is refused."""
    from bnretrofit.workflows.training_choices import DataChoice

    if checkpoint is not None and options["weights"] is not None:
        raise click.UsageError("CHECKPOINT and --weights exclude each other.")
    if options["val"] is not None and options["val_split"] is not None:
        raise click.UsageError("--val and --val-split exclude each other.")
    chosen = {name: options[name] for name in ("val", "val_split", "aug")}
    # Of `finetune` alone: `run` works on folders.
    more = {name: options[name] for name in ("data_dir", "train_split") if options.get(name) is not None}
    return DataChoice(image_choice(options), options["root"], **chosen, **more)


def run_choice(ctx: click.Context, output: Path, device: str | None, options: dict[str, Any], *, resume: bool) -> Any:
    """How a run is kept, by a command's options."""
    from bnretrofit.workflows.training_choices import RunChoice

    return RunChoice(
        output,
        resume,
        options["save_steps"],
        find_rate=options["lr"] == "auto",
        device=device,
        options=given_options(ctx),
        tensorboard=options["tensorboard"],
    )


weights_option = click.option(
    "--weights", metavar="NAME", help="Instead of CHECKPOINT: the library's own, DEFAULT or an enum or tag name."
)

run_folder_options = stacked(
    config_option,
    click.option("-o", "--output", type=FILE, required=True, help="The run's folder, which is made."),
    click.option("--resume", is_flag=True, help="Go on with the run in that folder, as if it had never stopped."),
    click.option("--device", help="cpu; by default what there is, and under torchrun each process's own."),
    json_option,
)
