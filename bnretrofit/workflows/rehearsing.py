"""The rehearsal of `bnretrofit run`: what would be refused hours later is refused before anything is made.

Norms of any statistics are inserted into the checkpoint, training is prepared as it will be, and the fold of norms that
are no identity any more is planned.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from bnretrofit.copies import replace_module, share_copy
from bnretrofit.errors import UsageError
from bnretrofit.folding import make_fold_plan
from bnretrofit.insertion import insert_blank
from bnretrofit.norms import running_norms
from bnretrofit.sites import Fold, FoldPlan, Plan
from bnretrofit.training import TrainingConfig
from bnretrofit.training.budget import check_patience, check_step, steps_in_all
from bnretrofit.training.devices import accelerator_for
from bnretrofit.training.optimisation import optimizer_for
from bnretrofit.training.preparation import prepared, silent
from bnretrofit.workflows.learners import Learner, example_of, learner
from bnretrofit.workflows.opening import ModelChoice, open_model
from bnretrofit.workflows.own_heads import with_own_head
from bnretrofit.workflows.planned import PlanChoice, decide
from bnretrofit.workflows.training_choices import DataChoice

__all__ = ["rehearse"]

SHIFT = 0.1
"""Of the norms in the rehearsal. As torch makes them they scale by 1 / sqrt(1 + eps) already."""

SHOWN = 8
"""Layers that a message names."""


def rehearse(
    path: Path | None,
    model: ModelChoice,
    data: DataChoice,
    plan: PlanChoice,
    config: TrainingConfig,
    device: str | None,
) -> None:
    """Refuse what `run` could not bring to its end.

    Args:
        path: The checkpoint; None for the library's own weights.
        model: What the user said of it.
        data: What it learns from.
        plan: Which layers get a norm.
        config: How it is trained.
        device: "cpu", or None for what there is.

    Raises:
        UsageError: The settings do not fit network or images, or the fold would need tensors that the checkpoint's
            architecture does not have.
        InputRejectedError: Network and images do not fit one another.
    """
    opened = open_model(path, with_own_head(path, model))
    if opened.plan is not None:
        # It has norms of ours already, which retrofit refuses at once.
        return
    with learner(opened, model, data, config, device) as plain:
        example = example_of(plain.samples, plain.source, opened.model)
        chosen, _ = decide(opened, plan, example, trust_code=model.trust_code)
    part = _shifted(insert_blank(opened.model, chosen))
    _check_fold(make_fold_plan(part, example), chosen, str(opened.name))
    whole = opened.whole
    if whole is not None:
        whole = share_copy(whole)
        replace_module(whole, whole.get_submodule(opened.submodule), part)
    with learner(replace(opened, model=part, whole=whole), model, data, config, device) as ready:
        _check_training(ready, config, device)


def _shifted(model: nn.Module) -> nn.Module:
    """The model with all norms' biases moved, as training moves them."""
    for norm in running_norms(model).values():
        if isinstance(norm.bias, nn.Parameter):
            norm.bias = nn.Parameter(norm.bias.detach() + SHIFT)
    return model


def _check_fold(found: FoldPlan, plan: Plan, name: str) -> None:
    layers = {site.norm_name: site.name for site in plan.sites}
    stay = {layers[leave.name]: leave.reason for leave in found.leaves if leave.name in layers}
    grow = {layers[fold.norm]: "it has no bias to take the shift" for fold in found.folds if _grows(fold, layers)}
    refused = {**stay, **grow}
    if not refused:
        return
    first, reason = next(iter(refused.items()))
    placed = "take --placement pre, or " if plan.placement == "post" else ""
    options = " ".join(f"--exclude '{layer}'" for layer in list(refused)[:SHOWN]) + " …" * (len(refused) > SHOWN)
    raise UsageError(
        f"the norms of {len(refused)} layers could not be folded back into {name} as it is",
        where=first,
        why=reason,
        remedy=f"{placed}leave these layers out ({options}), or use retrofit, finetune and fold one by one",
    )


def _grows(fold: Fold, layers: Mapping[str, str]) -> bool:
    return fold.norm in layers and fold.new_bias


def _check_training(ready: Learner, config: TrainingConfig, device: str | None) -> None:
    check_patience(config, ready.samples, 0, 1)
    check_step(config, ready.samples, 1)
    steps_in_all(config, ready.samples.batches_per_epoch(1, config.grad_accum_steps))
    accelerator = accelerator_for(device, config.amp)
    network = ready.network.to(accelerator.device)
    with prepared(network, ready.samples, config, accelerator, silent) as found:
        optimizer_for(config, found.trained)
