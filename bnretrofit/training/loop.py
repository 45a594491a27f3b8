"""The loop: steps, epochs, what is kept of them, and when to stop."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bnretrofit.errors import InputRejectedError
from bnretrofit.norms import foreign_norms, running_norms
from bnretrofit.scales import scales_of
from bnretrofit.training.best_weights import best_weights
from bnretrofit.training.budget import steps_in_all
from bnretrofit.training.config import TrainingConfig
from bnretrofit.training.devices import gathered, parallel, share_buffers
from bnretrofit.training.evaluation import evaluate_on_ranks
from bnretrofit.training.finite import check_finite, check_weights
from bnretrofit.training.history import Epoch, History
from bnretrofit.training.preparation import Prepared
from bnretrofit.training.protocols import Keeper, Labelled, TrainingSet
from bnretrofit.training.saving import Progress, SavedRun, restore_optimizer, restored, saved
from bnretrofit.training.step_statistics import pooled_statistics
from bnretrofit.training.stepping import Stepper

__all__ = ["Loop"]

LOOKS = 10
"""Steps between two looks at the loss on a GPU: each look waits for it."""


class Loop:
    """A run of training that can be left after any step and taken up again.

    Args:
        model: In eval mode, on its device; it is changed.
        data: What it learns from.
        config: How.
        ready: The model as it was prepared.
        accelerator: Accelerate's view of this process.
        keeper: Where the run is kept.

    Attributes:
        steps: Of the whole run.
        progress: Where it is.
    """

    def __init__(
        self,
        model: nn.Module,
        data: TrainingSet,
        config: TrainingConfig,
        ready: Prepared,
        accelerator: Any,
        keeper: Keeper,
    ) -> None:
        self._model, self._data, self._config, self._trained = model, data, config, ready.trained
        self._average, self._accelerator, self._keeper = ready.average, accelerator, keeper
        self._ranks, self._rank = accelerator.num_processes, accelerator.process_index
        self._per_epoch = data.batches_per_epoch(self._ranks, config.grad_accum_steps)
        self.steps = steps_in_all(config, self._per_epoch)
        self._all_reached = ready.all_reached
        self._batch_statistics = ready.batch_statistics
        self._stepper = Stepper(model, config, ready, accelerator, self.steps)
        self._foreign = ready.batch_statistics and bool(foreign_norms(model))
        self._quiet = not accelerator.is_main_process
        self.progress = Progress()

    @property
    def judged(self) -> nn.Module:
        """The model whose weights are the result: the average, if there is one."""
        judged: nn.Module = self._model if self._average is None else self._average.module
        return judged

    def run(self) -> History:
        """Train to the end, from the beginning or from what was kept.

        Raises:
            TrainingDivergedError: The loss or a weight is not finite; what was kept last is good.
        """
        found = self._keeper.load()
        # All have seen the same before anybody writes.
        self._accelerator.wait_for_everyone()
        if found is None:
            self._end_epoch(None, 0.0)
        else:
            self._take_up(found)
        with ExitStack() as stack:
            pool = stack.enter_context(pooled_statistics(self._pooled_norms(), self._gather))
            wrapped = parallel(self._accelerator, self._model, all_reached=self._all_reached)
            bar = stack.enter_context(
                tqdm(total=self.steps, initial=self.progress.step, unit="step", delay=1.0, disable=self._quiet)
            )
            while not self._is_over():
                self._epoch(wrapped, pool, bar)
        self._finish()
        return self.progress.history

    def _pooled_norms(self) -> dict[str, nn.Module]:
        together = self._ranks > 1 or self._config.grad_accum_steps > 1
        norms = {
            name: norm for name, norm in running_norms(self._model).items() if not isinstance(norm, nn.SyncBatchNorm)
        }
        return norms if self._batch_statistics and together else {}

    def _gather(self, mine: Tensor) -> list[Tensor]:
        return gathered(self._accelerator, mine)

    def _is_over(self) -> bool:
        history, patience = self.progress.history, self._config.patience
        waited = patience is not None and history.since_best() >= patience
        return self.progress.finished or self.progress.step >= self.steps or waited

    def _epoch(self, wrapped: nn.Module, pool: Callable[[], None], bar: Any) -> None:
        """The rest of the epoch that has begun."""
        epoch, accumulate = self.progress.epoch, self._config.grad_accum_steps
        # Drawing it now would be too early: a bar is shown after a second, and one that ends before leaves no line.
        bar.set_description(f"epoch {epoch + 1}", refresh=False)
        self._model.train()
        loss_sum = torch.zeros((), dtype=torch.float64, device=self._accelerator.device) + self.progress.loss_sum
        ours = {"rank": self._rank, "ranks": self._ranks, "accumulate": accumulate}
        taken: Any = self._data.train(epoch, start=self.progress.batch, **ours)
        with closing(taken) as batches:
            for micros in _grouped(batches, accumulate):
                loss_sum += self._stepper.step(wrapped, micros, self.progress.step)
                pool()
                self._stepper.update_average(self.progress.step)
                self._count(loss_sum, bar)
                # An epoch is gone through to its end: workers that decode are kept for the next one then.
                if self.progress.step >= self.steps:
                    break
                if self.progress.batch == self._per_epoch:
                    continue
                if self._keeper.is_due(self.progress.step):
                    self._save(loss_sum)
        self._model.eval()
        if not self.progress.batch:
            raise InputRejectedError("the training set gives no batch", remedy="take a smaller batch, or more images")
        self._end_epoch(float(loss_sum) / self.progress.batch, self._stepper.rate)

    def _count(self, loss_sum: Tensor, bar: Any) -> None:
        self.progress = replace(self.progress, batch=self.progress.batch + 1, step=self.progress.step + 1)
        bar.update()
        if loss_sum.device.type == "cpu" or self.progress.step % LOOKS == 0:
            self._check_loss(float(loss_sum))
            bar.set_postfix(
                loss=f"{float(loss_sum) / self.progress.batch:.4f}", lr=f"{self._stepper.rate:.3g}", refresh=False
            )

    def _check(self, value: float, what: str) -> None:
        check_finite(value, what, step=self.progress.step, rate=self._stepper.rate)

    def _check_loss(self, value: float) -> None:
        if not math.isfinite(value):
            # Before the learning rate is blamed. All ranks have the same loss, and look together.
            self._stepper.check_images()
        self._check(value, "loss")

    def _check_weights(self) -> None:
        running = (each for norm in running_norms(self._model).values() for each in norm.buffers(recurse=False))
        weights = [*self._trained.named().values(), *running]
        check_weights(weights, step=self.progress.step, rate=self._stepper.rate)

    def _end_epoch(self, train_loss: float | None, rate: float) -> None:
        self._check_loss(0.0 if train_loss is None else train_loss)
        self._check_weights()
        self._share_foreign()
        found = evaluate_on_ranks(self.judged, self._data, self._accelerator)
        if found is not None:
            self._check(found.loss, "validation loss")
        norms = running_norms(self.judged)
        scales = scales_of(norms) if norms else None
        number = self.progress.epoch + (train_loss is not None)
        row = Epoch(
            number,
            self.progress.step,
            rate,
            train_loss,
            None if found is None else found.loss,
            None if found is None else found.top1,
            None if scales is None else scales.median,
            None if scales is None else scales.largest,
        )
        self.progress = Progress(number, 0, self.progress.step, 0.0, self.progress.history.with_epoch(row))
        # First the state, which holds the weights too: a process that ends in between leaves nothing of an epoch that
        # the run does not know, and whoever goes on writes what is missing.
        self._save(None)
        if self.progress.history.best is row:
            self._keep_best()

    def _keep_best(self) -> None:
        self._keeper.keep("best", self.judged.state_dict(), self.progress.history.epochs[-1], measured=False)

    def _share_foreign(self) -> None:
        """Norms that compute in a way of their own are not pooled: all ranks go on with the first one's."""
        if self._foreign:
            # In one order on all ranks: each waits for the others with every buffer.
            share_buffers(self._accelerator, self._model)
            if self.judged is not self._model:
                share_buffers(self._accelerator, self.judged)

    def _save(self, loss_sum: Tensor | None) -> None:
        if loss_sum is not None:
            # On a GPU the loss is looked at now and then only, and what is kept is to be good.
            self._check_loss(float(loss_sum))
            self._check_weights()
            self._share_foreign()
            self.progress = replace(self.progress, loss_sum=float(loss_sum))
        average = None if self._average is None else self._average.module
        scaler = self._accelerator.scaler
        state = {} if scaler is None else scaler.state_dict()
        self._keeper.save(saved(self.progress, self._model, average, self._stepper.optimizer.optimizer, state))

    def _take_up(self, found: SavedRun) -> None:
        restored(found, self._model, None if self._average is None else self._average.module)
        restore_optimizer(found, self._stepper.optimizer.optimizer)
        if self._accelerator.scaler is not None and found.document["scaler"]:
            self._accelerator.scaler.load_state_dict(found.document["scaler"])
        self.progress = found.progress
        history = self.progress.history
        if self.progress.finished or not history.epochs:
            return
        if not self.progress.batch and history.best == history.epochs[-1]:
            self._keep_best()
        # Without validation the best epoch is the last one, and each writes its weights anew.
        elif history.epochs[-1].val_top1 is not None:
            # Without them the run could not be ended, hours later.
            best_weights(self._keeper, history)

    def _finish(self) -> None:
        history = self.progress.history
        if self.progress.step < self.steps and not self.progress.finished:
            gain = history.last_gain
            waited = f"{self._config.patience} epoch{'' if self._config.patience == 1 else 's'}"
            what = f"no better accuracy in {waited} after epoch {gain.epoch if gain else 0}"
            history = replace(history, stopped=what)
        if not self.progress.finished:
            self.progress = replace(self.progress, history=history, finished=True)
            self._save(None)


def _grouped(batches: Iterator[Labelled], size: int) -> Iterator[list[Labelled]]:
    """Lists of so many batches; what is left over at the end of an epoch makes no step."""
    while len(group := list(islice(batches, size))) == size:
        yield group
