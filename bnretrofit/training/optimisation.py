"""Settings -> the optimiser and its rate at each step. Both are timm's."""

import json
from dataclasses import fields
from typing import Any

import torch

from bnretrofit.errors import UsageError
from bnretrofit.training.config import TrainingConfig
from bnretrofit.training.parameters import Trained

__all__ = ["optimizer_for", "rates_for"]

WARMUP_SHARE, WARMUP_MOST = 0.05, 500


def optimizer_for(config: TrainingConfig, trained: Trained) -> torch.optim.Optimizer:
    """The optimiser of a run.

    Raises:
        UsageError: timm knows none by that name, or it does not take these settings.
    """
    from timm.optim import create_optimizer_v2

    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            trained.groups(config.weight_decay),
            # Nesterov's, which timm's "sgd" is, needs a momentum; "momentum" is the one that may have none.
            opt="momentum" if config.opt == "sgd" and not config.momentum else config.opt,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=0.0,
        )
    except (ValueError, AssertionError, KeyError, ImportError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(
            f"there is no optimiser '{config.opt}' with these settings", why=said, remedy="take sgd or adamw"
        ) from error
    _check_used(config, trained, optimizer)
    if getattr(optimizer, "is_second_order", False):
        why = "it needs gradients of gradients"
        raise UsageError(f"there is no training with the optimiser '{config.opt}'", why=why, remedy="take sgd or adamw")
    groups = [{**group, "params": []} for group in optimizer.state_dict()["param_groups"]]
    try:
        json.dumps(groups, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _unkept(config.opt, "settings that are neither numbers nor texts") from error
    more = sorted(optimizer.state_dict().keys() - {"state", "param_groups"})
    if more:
        raise _unkept(config.opt, ", ".join(more))
    return optimizer


def _check_used(config: TrainingConfig, trained: Trained, optimizer: torch.optim.Optimizer) -> None:
    """Refuse settings that were chosen and would do nothing; the defaults are nobody's choice."""
    defaults = {field.name: field.default for field in fields(config)}
    unused = any(group.get("momentum") != config.momentum for group in optimizer.param_groups)
    if unused and config.momentum not in (0, defaults["momentum"]):
        why = f"the optimiser '{config.opt}' has none"
        remedy = "leave out momentum, or take opt=sgd"
        raise UsageError("momentum would do nothing", why=why, remedy=remedy).of("momentum", "opt")
    if config.weight_decay not in (0, defaults["weight_decay"]) and not trained.decayed:
        why = f"train={config.train} trains nothing that decays"
        remedy = "leave out weight_decay, or take train=all"
        raise UsageError("weight_decay would do nothing", why=why, remedy=remedy).of("weight_decay", "train")


def _unkept(name: str, what: str) -> UsageError:
    why = f"what it keeps beside its tensors cannot be saved: {what}"
    return UsageError(f"a run with the optimiser '{name}' cannot be kept", why=why, remedy="take sgd or adamw")


def rates_for(config: TrainingConfig, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """The schedule over all steps, timm's: `step_update(k)` sets the rate of the step with number k, from 0.

    The rate is a function of k alone, so nothing of it has to be saved.
    """
    from timm.scheduler import create_scheduler_v2

    warmup = config.warmup_steps
    warmup = min(round(WARMUP_SHARE * steps), WARMUP_MOST) if warmup is None else warmup
    scheduler, _ = create_scheduler_v2(
        optimizer,
        # A cosine between a rate and the same rate is a constant.
        sched={"linear": "poly"}.get(config.sched, "cosine"),
        decay_rate=1.0,
        min_lr=config.lr if config.sched == "constant" else config.min_lr,
        num_epochs=max(steps, 1),
        warmup_epochs=warmup,
        warmup_lr=config.lr / max(warmup, 1),
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return scheduler
