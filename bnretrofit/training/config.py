"""How a network is fine-tuned, as data that travels with the run."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.training.admitted_settings import admitted_setting, check_together

__all__ = ["TrainingConfig"]


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Everything that the weights after fine-tuning depend on, besides model, data and batch size.

    Attributes:
        epochs: How often the training set is gone through.
        steps: Optimiser steps in all, instead of `epochs`; may end in the midst of an epoch.
        lr: Top of the learning rate's schedule, which counts from the first step, as timm's does by default: where
            warm-up ends, a cosine has fallen a little already.
        opt: An optimiser by timm's name: "sgd" (with Nesterov's momentum), "adamw" …
        momentum: Of optimisers that have one; for others another than the default is refused.
        weight_decay: On weights alone: not on norms, nor on biases.
        sched: How the rate falls after warm-up: "cosine", "linear" or "constant".
        min_lr: Where it falls to; at most `lr`.
        warmup_steps: Steps in which it rises from nought, at most all; None for 5 % of all steps, 500 at most.
        label_smoothing: Share of the target that is spread over all classes.
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of cutmix; 0 for none.
        ema_decay: Keep an average of the weights with this decay, below 1, and give that as the result; None for none.
        ema_warmup: Let the average follow at once and slow down to that decay, instead of having it from the start.
        clip_grad: Largest norm of the gradient; None for no limit.
        grad_accum_steps: Batches whose gradients make one step; their running statistics are pooled.
        train: What is trained: "all", "bn" (weight and bias of norms), "head" (the layer that makes the logits),
            "bn+head".
        bn_stats: "batch": norms use each batch's statistics in training. "frozen": their running ones. "auto": by the
            batch size (see `training.norm_mode`), and "frozen" where the head alone is trained.
        bn_momentum: Weight of a step in the running statistics, where these move; None leaves each norm's own.
        dropout: Rate of all dropouts; None leaves them.
        amp: Mixed precision: "no", "bf16", "fp16".
        channels_last: Run convolutions with channels last in memory.
        patience: Stop when so many epochs have brought no better accuracy; None never does.
        seed: Of order, augmentation, dropout and mixing.
    """

    epochs: int = 10
    steps: int | None = None
    lr: float = 0.01
    opt: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    sched: str = "cosine"
    min_lr: float = 0.0
    warmup_steps: int | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float | None = None
    ema_warmup: bool = False
    clip_grad: float | None = None
    grad_accum_steps: int = 1
    train: str = "all"
    bn_stats: str = "auto"
    bn_momentum: float | None = None
    dropout: float | None = None
    amp: str = "no"
    channels_last: bool = False
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, admitted_setting(field.name, getattr(self, field.name), field.type))
        check_together(self)

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Any) -> "TrainingConfig":
        """What `to_json` wrote.

        Raises:
            InputRejectedError: The document is of another form.
        """
        try:
            return cls(**document)
        except (TypeError, UsageError) as error:
            raise InputRejectedError("the stored settings of a run are damaged", why=str(error)) from error
