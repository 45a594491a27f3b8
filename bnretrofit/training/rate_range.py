"""The range test of learning rates: they rise step by step until the loss does, and what is taken lies below that.

After L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), section 3.3.
"""

import math
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

from torch import nn
from tqdm import tqdm

from bnretrofit.copies import independent_copy
from bnretrofit.errors import InputRejectedError
from bnretrofit.training.config import TrainingConfig
from bnretrofit.training.devices import accelerator_for
from bnretrofit.training.preparation import prepared
from bnretrofit.training.protocols import Labelled, TrainingSet
from bnretrofit.training.stepping import Stepper

__all__ = ["RateRange", "find_rate"]

LOWEST, HIGHEST, STEPS = 1e-5, 10.0, 120
SMOOTHING = 0.8
RISEN = 1.25
"""The loss has risen when, smoothed, it is so many times its least value: noise alone hardly brings it there."""
BELOW = 10.0
"""How far below the rate of the rise the chosen one lies: the usual distance between where training breaks down in a
few steps and where it goes well over many."""


@dataclass(frozen=True, slots=True)
class RateRange:
    """What the test found.

    Attributes:
        rates: That were tried, rising.
        losses: Smoothed, at each.
        chosen: The rate to train with.
        risen_at: The rate at which the loss had risen; None if it never did.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    chosen: float
    risen_at: float | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return {
            "rates": list(self.rates),
            "losses": [loss if math.isfinite(loss) else None for loss in self.losses],
            "chosen": self.chosen,
            "risen_at": self.risen_at,
        }

    def __str__(self) -> str:
        """The curve in a few lines: rate, loss, and a bar."""
        every = max(len(self.rates) // 12, 1)
        most = max((loss for loss in self.losses if math.isfinite(loss)), default=1.0)
        lines = [
            f"  {rate:<9.2g}{loss:<9.4g}{'#' * round(30 * min(loss / most, 1.0)) if math.isfinite(loss) else ''}"
            for rate, loss in list(zip(self.rates, self.losses, strict=True))[::every]
        ]
        end = "never rose" if self.risen_at is None else f"had risen at {self.risen_at:.2g}"
        return "\n".join(["  rate     loss", *lines, f"  the loss {end}; chosen: {self.chosen:.2g}"])


def find_rate(model: nn.Module, data: TrainingSet, config: TrainingConfig, device: str | None) -> RateRange:
    """Try rising learning rates on a copy of a model, until the loss rises.

    Args:
        model: In eval mode; it is left as it is.
        data: What it learns from; all ranks take the first one's share, and so find the same.
        config: How it will be trained.
        device: As `finetuning.finetune_on` takes it.

    Raises:
        InputRejectedError: The loss rises at the lowest rate already.
    """
    accelerator = accelerator_for(device, config.amp)
    copy = independent_copy(model).to(accelerator.device).eval()
    tried = replace(config, steps=STEPS, warmup_steps=0, ema_decay=None)
    rates: list[float] = []
    losses: list[float] = []
    with ExitStack() as stack:
        ready = stack.enter_context(prepared(copy, data, tried, accelerator, _silent))
        stepper = Stepper(copy, tried, ready, accelerator, STEPS)
        batches = stack.enter_context(closing(_endless(data, config.grad_accum_steps)))
        copy.train()
        quiet = not accelerator.is_main_process
        for step in tqdm(range(STEPS), desc="learning rates", delay=1.0, leave=False, disable=quiet):
            rates.append(LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)))
            micros = list(islice(batches, config.grad_accum_steps))
            loss = float(stepper.step(copy, micros, step, rates[-1]))
            losses.append(loss if not losses else SMOOTHING * losses[-1] + (1 - SMOOTHING) * loss)
            if not math.isfinite(losses[-1]) or losses[-1] > RISEN * min(losses):
                break
    return _chosen(rates, losses)


def _silent(_text: str) -> None:
    """Tell nobody: the run itself will."""


def _endless(data: TrainingSet, accumulate: int) -> Generator[Labelled]:
    for epoch in count():
        before = epoch
        for batch in data.train(epoch, accumulate=accumulate):
            before = -1
            yield batch
        if before == epoch:
            raise InputRejectedError("the training set gives no batch", remedy="take a smaller batch, or more images")


def _chosen(rates: list[float], losses: list[float]) -> RateRange:
    risen = not math.isfinite(losses[-1]) or losses[-1] > RISEN * min(losses)
    chosen = rates[-1] / BELOW
    if risen and chosen < LOWEST:
        raise InputRejectedError(
            "no learning rate can be found",
            why=f"the loss rises at {rates[-1]:.2g} already",
            remedy="check the labels and the preprocessing, or pass a rate with --lr",
        )
    return RateRange(tuple(rates), tuple(losses), chosen, rates[-1] if risen else None)
