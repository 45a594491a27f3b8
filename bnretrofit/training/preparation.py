"""A model made ready to be trained, and afterwards as it was but for what it has learnt."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.norms import foreign_norms, running_norms
from bnretrofit.training.admitted_batches import admitted
from bnretrofit.training.averaging import average_of
from bnretrofit.training.config import TrainingConfig
from bnretrofit.training.devices import gathered
from bnretrofit.training.evaluation import classes_of
from bnretrofit.training.frozen_statistics import frozen_statistics
from bnretrofit.training.norm_mode import momentum_set, momentum_spread, resolved, synchronised, unsynchronised
from bnretrofit.training.parameters import Trained, trained_alone, trained_parameters
from bnretrofit.training.protocols import TrainingSet
from bnretrofit.training.reaching import unreached
from bnretrofit.training.targets import check_mixing
from bnretrofit.trials.drift import drift_of

DROPOUTS: dict[type[nn.Module], str] = {
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout), "p"),
    nn.FeatureAlphaDropout: "p",
    nn.MultiheadAttention: "dropout",
}
"""By which attribute a module keeps the rate of its dropout."""

__all__ = ["Prepared", "Tell", "prepared", "silent"]

Tell = Callable[[str], object]
"""Takes a sentence that the user should read."""


def silent(_text: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was found out about a model that is to be trained.

    Attributes:
        trained: The parameters that learn.
        average: A copy of the model for the average of its weights, timm's ModelEmaV3; None without.
        classes: Outputs of the model.
        batch_statistics: Whether norms use batch statistics and move their running ones.
        all_reached: Whether the logits depended on all of these parameters, in a pass in training mode.
    """

    trained: Trained
    average: Any
    classes: int
    batch_statistics: bool
    all_reached: bool


@contextmanager
def prepared(
    model: nn.Module, data: TrainingSet, config: TrainingConfig, accelerator: Any, tell: Tell
) -> Iterator[Prepared]:
    """Set norms, dropouts and gradients as the settings say, while it lasts.

    Args:
        model: In eval mode, on its device.
        data: What it learns from.
        config: How.
        accelerator: Accelerate's view of this process.
        tell: Called with each sentence that the user should read.

    Raises:
        UsageError: The settings do not fit the model.
        InputRejectedError: The model is no classifier of these images, or a batch has one image, or is no batch of
            images and labels.
    """
    images = _first_images(data, accelerator, config.grad_accum_steps)
    classes = classes_of(model, images[:1])
    norms, foreign = running_norms(model), foreign_norms(model)
    ranks = accelerator.num_processes if accelerator.device.type == "cuda" else 1
    # All ranks decide alike: an image that cannot be read, or one too few, may have left one of them a smaller batch.
    sizes = [int(size) for size in gathered(accelerator, torch.tensor(len(images), device=images.device))]
    check_mixing(config, min(sizes))
    batch = _batch_statistics(config, min(sizes), max(sizes) * ranks, norms=bool(norms or foreign))
    for text in _unused(config, max(sizes), norms=bool(norms or foreign)):
        tell(text)
    if norms or foreign:
        drift = drift_of(model, images)
        how = "the statistics of each batch" if batch else "their running statistics"
        tell(f"norms use {how}" + ("" if drift is None else f"; with batch statistics outputs move by {drift}"))
    for name in foreign if batch else ():
        tell(
            f"'{name}' is a {type(foreign[name]).__name__}, which computes in a way of its own: its running statistics "
            "are not measured again, nor pooled, and --bn-momentum does not reach it"
        )
    trained = trained_parameters(model, images[:1], config.train, batch_statistics=batch)
    skipped = unreached(model, images[:1], trained.named(), training=True)
    beside = set(skipped).intersection(unreached(model, images[:1], trained.named(), training=False))
    if beside:
        shown = ", ".join(sorted(beside)[:3]) + (" …" if len(beside) > 3 else "")
        tell(f"{len(beside)} parameters learn nothing, since the logits do not depend on them: {shown}")
    average = None if config.ema_decay is None else average_of(model, config.ema_decay, warmup=config.ema_warmup)
    with ExitStack() as stack:
        stack.enter_context(trained_alone(model, trained))
        stack.enter_context(_dropout_set(model, config.dropout))
        stack.enter_context(momentum_set(norms, config.bn_momentum))
        if (norms or foreign) and not batch:
            for left in stack.enter_context(frozen_statistics(model, images[:1])).leaves:
                tell(f"'{left.name}' keeps its running statistics at the cost of a norm, since {left.reason}")
        elif ranks > 1:
            stack.enter_context(synchronised(norms))
        # What the batches of a step leave is pooled elsewhere, but not of these, which each call moves.
        shared = {name: norm for name, norm in norms.items() if isinstance(norm, nn.SyncBatchNorm)}
        stack.enter_context(momentum_spread(shared, config.grad_accum_steps))
        if ranks > 1 and batch:
            for name, norm in unsynchronised(model).items():
                kind = type(norm).__name__
                tell(f"'{name}' uses the statistics of its own GPU's batch: no synchronised {kind} is known")
        yield Prepared(trained, average, classes, batch, all_reached=not skipped)


def _batch_statistics(config: TrainingConfig, least: int, together: int, *, norms: bool) -> bool:
    """Whether norms use batch statistics.

    Args:
        config: How it is trained.
        least: Images of the smallest batch.
        together: Images that share their statistics.
        norms: Whether there are norms that have any.
    """
    batch = norms and resolved(config, together) == "batch"
    if batch and least < 2:
        remedy = "take a larger --batch-size, or --bn-stats frozen"
        raise InputRejectedError("a batch of one image has no statistics", remedy=remedy)
    if config.bn_momentum is not None and not batch:
        why = f"bn_stats=auto freezes the statistics of batches of {together} images"
        raise UsageError(
            "bn_momentum would do nothing",
            why=why if norms else "the network has no norms whose statistics could move",
            remedy="leave out bn_momentum" + (", or take bn_stats=batch" if norms else ""),
        ).of("bn_momentum", "bn_stats")
    return batch


def _unused(config: TrainingConfig, images: int, *, norms: bool) -> Iterator[str]:
    """What of the settings and images does nothing."""
    if (config.mixup or config.cutmix) and images % 2:
        yield f"images are mixed in pairs: one image of each batch of {images} is left out"
    if config.bn_stats != "auto" and not norms:
        yield f"the network has no norms: --bn-stats {config.bn_stats} does nothing"


def _first_images(data: TrainingSet, accelerator: Any, accumulate: int) -> Tensor:
    ours = {"rank": accelerator.process_index, "ranks": accelerator.num_processes, "accumulate": accumulate}
    batches: Any = data.train(0, **ours)
    try:
        found = next(batches, None)
    finally:
        batches.close()
    if found is None:
        raise InputRejectedError("the training set gives no batch", remedy="take a smaller batch, or more images")
    images, _ = admitted(found, "the first training batch")
    return images.to(accelerator.device)


@contextmanager
def _dropout_set(model: nn.Module, rate: float | None) -> Iterator[None]:
    """While it lasts, all dropouts have this rate. Torch scales what is left at training time: no weight changes."""
    dropouts = [
        (module, attribute)
        for module in model.modules()
        for kind, attribute in DROPOUTS.items()
        if isinstance(module, kind)
    ]
    before = [getattr(module, attribute) for module, attribute in dropouts]
    if rate is not None and not dropouts:
        raise UsageError(
            "the network has no dropout whose rate could be set",
            why="none of its modules is a Dropout, and what its own code drops is not seen",
            remedy="leave out --dropout",
        )
    try:
        for (module, attribute), own in zip(dropouts, before, strict=True):
            setattr(module, attribute, own if rate is None else rate)
        yield
    finally:
        for (module, attribute), own in zip(dropouts, before, strict=True):
            setattr(module, attribute, own)
