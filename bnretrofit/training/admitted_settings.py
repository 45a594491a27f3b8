"""What a setting of a run may be: of which type, in which range, and together with which others."""

import math
from numbers import Integral, Real
from typing import Any, get_args

import numpy as np

from bnretrofit.errors import UsageError

__all__ = ["admitted_setting", "check_together", "check_warmup"]

CHOICES = {
    "sched": ("cosine", "linear", "constant"),
    "train": ("all", "bn", "head", "bn+head"),
    "bn_stats": ("auto", "batch", "frozen"),
    "amp": ("no", "bf16", "fp16"),
}

SMALLEST = 1e-12
BELOW_ONE = 1 - SMALLEST
BOUNDS: dict[str, tuple[float, float]] = {
    "epochs": (0, math.inf),
    "steps": (0, math.inf),
    "lr": (0, math.inf),
    "min_lr": (0, math.inf),
    "momentum": (0, 1),
    "weight_decay": (0, math.inf),
    "warmup_steps": (0, math.inf),
    "label_smoothing": (0, BELOW_ONE),
    "mixup": (0, math.inf),
    "cutmix": (0, math.inf),
    "ema_decay": (0, BELOW_ONE),
    "clip_grad": (SMALLEST, math.inf),
    "grad_accum_steps": (1, math.inf),
    "bn_momentum": (SMALLEST, 1),
    "dropout": (0, 1),
    "patience": (1, math.inf),
}

LARGE = 2**63
"""Whole numbers of so many bits are held neither by torch nor by a file that is read elsewhere."""

WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a name"}


def admitted_setting(name: str, value: Any, kind: Any) -> Any:
    """A setting as it is kept: what is numpy's becomes Python's, which a run's folder can hold.

    Args:
        name: Its name.
        value: What was given.
        kind: Its type, as the field is annotated.

    Raises:
        UsageError: It is of another type, or out of range.
    """
    kinds = get_args(kind) or (kind,)
    if value is None and type(None) in kinds:
        return None
    try:
        found = _converted(value, kinds[0])
    except OverflowError as error:
        # It would take hundreds of digits to say which.
        raise UsageError(f"{name} is a number of too many digits", remedy="take one of at most 18").of(name) from error
    if found is None:
        raise UsageError(
            f"{name} is {value!r}", why=f"that is a {type(value).__name__}", remedy=f"take {WORDS[kinds[0]]}"
        ).of(name)
    if name in CHOICES and found not in CHOICES[name]:
        raise UsageError(f"{name} is {value!r}", remedy=f"choose from {', '.join(CHOICES[name])}").of(name)
    if name in BOUNDS:
        low, high = BOUNDS[name]
        if not (low <= found <= high and math.isfinite(found)):
            raise UsageError(f"{name} is {value!r}", remedy=f"take a number {_limits(low, high)}").of(name)
    return found


def check_together(config: Any) -> None:
    """Refuse settings that contradict each other, or of which one would do nothing.

    Args:
        config: A `TrainingConfig`.

    Raises:
        UsageError: There are two such; it names both.
    """
    if config.min_lr > config.lr:
        what = f"min_lr is {config.min_lr:g}, and lr is {config.lr:g}"
        raise UsageError(what, why="the rate falls from lr to min_lr", remedy="take a smaller min_lr").of(
            "lr", "min_lr"
        )
    if config.min_lr and config.sched == "constant":
        what = "min_lr and sched=constant exclude each other"
        remedy = "leave out min_lr, or take sched=cosine or linear"
        raise UsageError(what, why="the rate does not fall", remedy=remedy).of("min_lr", "sched")
    if config.ema_warmup and config.ema_decay is None:
        what = "ema_warmup would do nothing without ema_decay"
        remedy = "leave out ema_warmup, or give ema_decay"
        raise UsageError(what, why="no average is kept", remedy=remedy).of("ema_warmup", "ema_decay")
    if config.steps is not None:
        check_warmup(config, config.steps)
    _check_momentum(config)


def _check_momentum(config: Any) -> None:
    if config.bn_momentum is None:
        return
    remedy = "leave out bn_momentum, or take bn_stats=batch"
    if config.bn_stats == "frozen":
        what = "bn_momentum and bn_stats=frozen exclude each other"
        raise UsageError(what, why="frozen statistics do not move", remedy=remedy).of("bn_momentum", "bn_stats")
    if config.bn_stats == "auto" and config.train == "head":
        why = "where the head alone is trained, bn_stats=auto freezes the statistics"
        what = "bn_momentum and train=head exclude each other"
        raise UsageError(what, why=why, remedy=remedy).of("bn_momentum", "train", "bn_stats")


def check_warmup(config: Any, steps: int) -> None:
    """Refuse a rate that would not have risen when the run ends.

    Args:
        config: A `TrainingConfig`.
        steps: Of the whole run.

    Raises:
        UsageError: There is such a rate.
    """
    if config.warmup_steps is not None and config.warmup_steps > steps:
        what = f"warmup_steps is {config.warmup_steps}, and the run has {steps} steps"
        remedy = "take fewer warmup_steps, or more steps or epochs"
        raise UsageError(what, why="the rate would never be reached", remedy=remedy).of("warmup_steps")


def _converted(value: Any, kind: type) -> Any:
    """The value as Python's own, or None. Python takes True for a number; here it is a mistake.

    Raises:
        OverflowError: It is a number that is too large.
    """
    if kind is str:
        # Not str(value), by which a member of an enum would be its name.
        return str.__str__(value) if isinstance(value, str) else None
    if kind is bool:
        return bool(value) if isinstance(value, (bool, np.bool_)) else None
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        return None
    number: Any = value
    if kind is int and abs(int(number)) >= LARGE:
        raise OverflowError
    return kind(number)


def _limits(low: float, high: float) -> str:
    if high == BELOW_ONE:
        return f"of at least {low:g} and below 1"
    return f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
