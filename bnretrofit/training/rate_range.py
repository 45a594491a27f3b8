"""The range test of learning rates: they rise step by step until the loss does, and what is taken lies below that.

After L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), section 3.3.
"""

import math
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import count, islice
from statistics import fmean, stdev
from typing import Any

from torch import nn
from tqdm import tqdm

from bnretrofit.copies import independent_copy
from bnretrofit.errors import InputRejectedError
from bnretrofit.training.config import TrainingConfig
from bnretrofit.training.devices import accelerator_for
from bnretrofit.training.preparation import prepared, silent
from bnretrofit.training.protocols import Labelled, TrainingSet
from bnretrofit.training.stepping import Stepper

__all__ = ["RateRange", "find_rate"]

LOWEST, HIGHEST, STEPS = 1e-5, 10.0, 120
SMOOTHING = 0.8
STILL_RATE, STILL_STEPS = 1e-9, 20
"""First come steps that change next to nothing: what batches differ by then is noise."""
RISEN, NOISE = 1.25, 3.0
"""The loss has risen when, smoothed, it is so many times its least value, and so many standard deviations of the noise
above it. Smoothing leaves a third of these, and over all steps the curve spans four or five of what is left."""
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
        InputRejectedError: The loss rises at the lowest rate already, or a batch cannot be trained on.
        TrainingDivergedError: In float16, where the gradients of step after step are not finite.
    """
    accelerator = accelerator_for(device, config.amp)
    copy = independent_copy(model).to(accelerator.device).eval()
    steps = STILL_STEPS + STEPS
    tried = replace(config, steps=steps, warmup_steps=0, ema_decay=None, ema_warmup=False)
    curve = _Curve()
    with ExitStack() as stack:
        ready = stack.enter_context(prepared(copy, data, tried, accelerator, silent))
        stepper = Stepper(copy, tried, ready, accelerator, steps)
        batches = stack.enter_context(closing(_endless(data, config.grad_accum_steps)))
        copy.train()
        quiet = not accelerator.is_main_process
        for step in tqdm(range(steps), desc="learning rates", delay=1.0, leave=False, disable=quiet):
            rate = LOWEST * (HIGHEST / LOWEST) ** ((step - STILL_STEPS) / (STEPS - 1))
            micros = list(islice(batches, config.grad_accum_steps))
            loss = float(stepper.step(copy, micros, step, STILL_RATE if step < STILL_STEPS else rate))
            if not math.isfinite(loss):
                stepper.check_images()
            if step < STILL_STEPS:
                curve.still.append(loss)
            else:
                curve.add(rate, loss)
            if curve.has_risen:
                break
    return _chosen(curve)


@dataclass(slots=True)
class _Curve:
    """Losses, smoothed, at rising rates.

    Attributes:
        still: Before the rates began to rise, as they were.
        rates: That were tried.
        losses: Smoothed, at each, beginning with the mean of those before.
    """

    still: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def add(self, rate: float, loss: float) -> None:
        before = self.losses[-1] if self.losses else fmean(self.still)
        self.rates.append(rate)
        self.losses.append(SMOOTHING * before + (1 - SMOOTHING) * loss)

    @property
    def has_risen(self) -> bool:
        if not self.losses:
            return not all(math.isfinite(loss) for loss in self.still)
        now, least = self.losses[-1], min(self.losses)
        return not math.isfinite(now) or now > max(RISEN * least, least + NOISE * stdev(self.still))


def _endless(data: TrainingSet, accumulate: int) -> Generator[Labelled]:
    for epoch in count():
        before = epoch
        for batch in data.train(epoch, accumulate=accumulate):
            before = -1
            yield batch
        if before == epoch:
            raise InputRejectedError("the training set gives no batch", remedy="take a smaller batch, or more images")


def _chosen(curve: _Curve) -> RateRange:
    last = curve.rates[-1] if curve.rates else STILL_RATE
    if curve.has_risen and last / BELOW < LOWEST:
        raise InputRejectedError(
            "no learning rate can be found",
            why=f"the loss rises at {last:.2g} already",
            remedy="check the labels and the preprocessing, or pass a rate with --lr",
        )
    return RateRange(tuple(curve.rates), tuple(curve.losses), last / BELOW, last if curve.has_risen else None)
