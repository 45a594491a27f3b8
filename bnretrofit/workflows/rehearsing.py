"""The rehearsal of `bnretrofit run`: what would be refused hours later is refused before anything is made.

Norms of any statistics are inserted into the checkpoint, training is prepared as it will be, and the fold of norms that
are no identity any more is planned.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.copies import replace_module, share_copy
from bnretrofit.errors import UsageError
from bnretrofit.folding import make_fold_plan
from bnretrofit.insertion import insert_blank
from bnretrofit.sites import Plan
from bnretrofit.training import TrainingConfig
from bnretrofit.training.budget import check_budget
from bnretrofit.training.devices import accelerator_for
from bnretrofit.training.optimisation import optimizer_for
from bnretrofit.training.preparation import prepared, silent
from bnretrofit.workflows.learners import Learner, example_of, learner
from bnretrofit.workflows.opening import ModelChoice, Opened, open_model
from bnretrofit.workflows.own_heads import with_own_head
from bnretrofit.workflows.planned import PlanChoice, decide
from bnretrofit.workflows.training_choices import DataChoice

__all__ = ["rehearse"]

SHIFT = 0.1
"""Of the norms in the rehearsal. As torch makes them they scale by 1 / sqrt(1 + eps) already."""


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
    chosen, part = _with_norms(opened, plan, example)
    if _norms_move(config) and (lost := _lost(part, chosen, example)):
        raise _refused(lost, str(opened.name), before=_is_cure(opened, plan, example))
    whole = opened.whole
    if whole is not None:
        whole = share_copy(whole)
        replace_module(whole, whole.get_submodule(opened.submodule), part)
    with learner(replace(opened, model=part, whole=whole), model, data, config, device) as ready:
        _check_training(ready, config, device)


def _norms_move(config: TrainingConfig) -> bool:
    """Whether training may make anything else of norms than the identity, which folds wherever it is."""
    steps = config.epochs if config.steps is None else config.steps
    return bool(steps) and (config.train != "head" or config.bn_stats == "batch")


def _with_norms(opened: Opened, plan: PlanChoice, example: Tensor) -> tuple[Plan, nn.Module]:
    """The plan, and the model with norms whose biases are moved, as training moves them."""
    # A run takes no plan that names another architecture, whose file might be run.
    chosen, _ = decide(opened, plan, example, trust_code=False)
    part = insert_blank(opened.model, chosen)
    for site in chosen.sites:
        norm: Any = part.get_submodule(site.norm_name)
        norm.bias = nn.Parameter(torch.full_like(norm.bias, SHIFT))
    return chosen, part


def _lost(part: nn.Module, plan: Plan, example: Tensor) -> dict[str, str]:
    """The layers whose norms would not be folded into the architecture as it is, each with its reason."""
    layers = {site.norm_name: site.name for site in plan.sites}
    before = {site.result_name: site.name for site in plan.sites}
    found = make_fold_plan(part, example)
    stay = {layers[leave.name]: leave.reason for leave in found.leaves if leave.name in layers}
    grow = {
        layers[fold.norm]: f"'{before.get(fold.layer, fold.layer)}' has no bias to take the shift"
        for fold in found.folds
        if fold.norm in layers and fold.new_bias
    }
    return {**stay, **grow}


def _is_cure(opened: Opened, plan: PlanChoice, example: Tensor) -> bool:
    """Whether norms before activations would all be folded, where they were to stand behind them."""
    if plan.placement != "post":
        return False
    chosen, part = _with_norms(opened, replace(plan, placement="pre"), example)
    return not _lost(part, chosen, example)


def _refused(lost: Mapping[str, str], name: str, *, before: bool) -> UsageError:
    first, reason = next(iter(lost.items()))
    norms = f"the norms of {len(lost)} layers" if len(lost) > 1 else "the norm of a layer"
    placed = "take --placement pre, or " if before else ""
    options = " ".join(f"--exclude '{layer}'" for layer in lost)
    return UsageError(
        f"{norms} could not be folded back into {name} as it is",
        where=first,
        why=reason,
        remedy=f"{placed}pass {options}, or use retrofit, finetune and fold one by one",
    )


def _check_training(ready: Learner, config: TrainingConfig, device: str | None) -> None:
    check_budget(config, ready.samples, 0, 1)
    accelerator = accelerator_for(device, config.amp)
    network = ready.network.to(accelerator.device)
    with prepared(network, ready.samples, config, accelerator, silent) as found:
        optimizer_for(config, found.trained)
