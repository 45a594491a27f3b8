"""One step of the optimiser: losses of its batches, gradients, weights. What is random in it depends on its number."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.errors import InputRejectedError, TrainingDivergedError
from bnretrofit.training.admitted_batches import ImageWatch, admitted, check_labels
from bnretrofit.training.averaging import update_average
from bnretrofit.training.config import TrainingConfig
from bnretrofit.training.devices import gathered
from bnretrofit.training.logits import logits_on
from bnretrofit.training.optimisation import optimizer_for, rates_for
from bnretrofit.training.preparation import Prepared
from bnretrofit.training.protocols import Labelled
from bnretrofit.training.targets import Mixing, loss_of
from bnretrofit.training_data.seeding import seed_of

__all__ = ["Stepper"]

SKIPPED = 30
"""By so many halvings the scale of the gradients falls from torch's first one, 2^16, to nothing that would help."""


class Stepper:
    """Makes the steps of a run.

    Args:
        model: In training mode when a step is made; it is changed.
        config: How.
        ready: The model as it was prepared.
        accelerator: Accelerate's view of this process.
        steps: Of the whole run, over which the rate falls.

    Attributes:
        optimizer: As accelerate wraps it.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, ready: Prepared, accelerator: Any, steps: int) -> None:
        self._model, self._config, self._ready, self._accelerator = model, config, ready, accelerator
        raw = optimizer_for(config, ready.trained)
        self.optimizer = accelerator.prepare_optimizer(raw)
        self._rates = rates_for(config, raw, steps)
        self._loss = loss_of(config)
        self._mixing = Mixing(config, ready.classes)
        self._watch = ImageWatch(accelerator.device)
        self._skipped = 0

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def step(self, wrapped: nn.Module, micros: list[Labelled], step: int, rate: float | None = None) -> Tensor:
        """Make one step of the optimiser.

        Args:
            wrapped: The model as ranks call it.
            micros: The batches whose gradients make the step.
            step: Its number.
            rate: Its learning rate; None for the schedule's.

        Returns:
            The mean loss over the batches of all ranks.

        Raises:
            InputRejectedError: A batch cannot be trained on.
            TrainingDivergedError: Step after step is left out in float16.
        """
        config, accelerator = self._config, self._accelerator
        self._rates.step_update(step)
        if rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
        # Also of what somebody has computed before the first step.
        self.optimizer.zero_grad()
        losses = []
        for number, batch in enumerate(micros):
            # As one rank would number them that goes over the batches of all ranks.
            place = number * accelerator.num_processes + accelerator.process_index
            torch.manual_seed(seed_of(config.seed, "step", step, place))
            waits = number + 1 < len(micros) and wrapped is not self._model
            with wrapped.no_sync() if waits else nullcontext():  # type: ignore[operator]
                loss = self._loss_on(wrapped, batch, step, place)
                accelerator.backward(loss / len(micros))
            losses.append(loss.detach().double())
        if config.clip_grad is not None:
            accelerator.clip_grad_norm_(self._ready.trained.named().values(), config.clip_grad)
        self.optimizer.step()
        self._count_skipped(step)
        self.optimizer.zero_grad()
        mean: Tensor = accelerator.reduce(torch.stack(losses).mean(), reduction="mean")
        return mean

    def check_images(self) -> None:
        """Look whether images were the reason, where all ranks have found that the loss is not finite.

        Raises:
            InputRejectedError: They were.
        """
        self._watch.check(int(min(gathered(self._accelerator, self._watch.first))))

    def update_average(self, step: int) -> None:
        """Let the average follow, once the running statistics are those of the whole step with this number."""
        if self._ready.average is not None:
            update_average(self._ready.average, self._model, step + 1, seed_of(self._config.seed, "average", step))

    def _count_skipped(self, step: int) -> None:
        """In float16 a step whose gradients are not finite is left out, and the next one's are scaled by less."""
        left_out = self._accelerator.scaler is not None and self.optimizer.step_was_skipped
        self._skipped = self._skipped + 1 if left_out else 0
        if self._skipped >= SKIPPED:
            raise TrainingDivergedError(
                f"the gradients of {SKIPPED} steps one after the other are not finite, the last of them at step {step}",
                why="no scale of float16 holds them",
                remedy="what was kept last is good; take --amp bf16 or no, or a lower --lr",
            )

    def _loss_on(self, wrapped: nn.Module, batch: Labelled, step: int, place: int) -> Tensor:
        images, labels = admitted(batch, f"the batch of step {step + 1}")
        layout = torch.channels_last if self._config.channels_last else torch.preserve_format
        device = self._accelerator.device
        check_labels(labels, self._ready.classes)
        if self._ready.batch_statistics and len(images) < 2:
            remedy = "leave out the last, smaller batch (drop_last=True), or take --bn-stats frozen"
            raise InputRejectedError("a batch of one image has no statistics", remedy=remedy)
        images = images.to(device, non_blocking=True, memory_format=layout)
        labels = labels.to(device, non_blocking=True)
        given = images
        images, labels = self._mixing(images, labels, step, place)
        with self._accelerator.autocast():
            logits = logits_on(self._model, images, wrapped)
        loss: Tensor = self._loss(logits, labels)
        self._watch.look(given, loss.detach(), step + 1)
        return loss
