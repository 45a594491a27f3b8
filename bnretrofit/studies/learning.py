"""One run of a study: a VGG learns for so many steps, and is judged."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnretrofit.copies import independent_copy
from bnretrofit.norms import running_norms
from bnretrofit.planning import make_plan
from bnretrofit.sites import Plan
from bnretrofit.standardising import standardize
from bnretrofit.studies.images import SIZE, Images, Labelled, batches_of, some_of
from bnretrofit.studies.networks import Shape, vgg, weighted
from bnretrofit.studies.recipes import Outcome, Recipe
from bnretrofit.studies.watch import Watch
from bnretrofit.studies.watching import watch_for
from bnretrofit.training import TrainingConfig
from bnretrofit.training.evaluation import Evaluation, evaluate
from bnretrofit.training.frozen_statistics import frozen_statistics
from bnretrofit.training.optimisation import optimizer_for, rates_for
from bnretrofit.training.parameters import trained_alone, trained_parameters
from bnretrofit.training.step_statistics import pooled_statistics
from bnretrofit.training_data.order import epoch_order, micro_batches
from bnretrofit.training_data.seeding import seed_of

__all__ = ["learn", "network_of", "shared_out"]

JUDGED = 1000
"""Of the images that were learnt, how many it is judged with."""

CALIBRATION = 256
"""Images by whose statistics norms are inserted."""


def learn(recipe: Recipe, images: Images) -> Outcome:
    """Make one run.

    SGD with Nesterov's momentum 0.9 and weight decay 5e-4 on weights, 5 % of the steps to warm up, then a cosine; no
    augmentation. Everything random is a function of the recipe's seed.

    Args:
        recipe: Of the run.
        images: What it learns from.
    """
    random = torch.get_rng_state()
    try:
        return _Run(recipe, images).outcome()
    finally:
        torch.set_rng_state(random)


def network_of(recipe: Recipe, images: Images) -> nn.Module:
    """The network before its first step, in eval mode."""
    network: nn.Module = vgg(recipe.shape, recipe.seed, classes=images.classes).eval()
    if recipe.norms:
        plan = _plan(recipe.shape, images.classes)
        network = independent_copy(standardize(network, plan, [some_of(images.train, CALIBRATION)[0]]))
    return network


@cache
def _plan(shape: Shape, classes: int) -> Plan:
    """Where norms go: the same for all seeds, and it takes longer to find out than many steps of training."""
    return make_plan(vgg(shape, 0, classes=classes).eval(), torch.zeros(2, *SIZE))


class _Run:
    def __init__(self, recipe: Recipe, images: Images) -> None:
        self._recipe, self._images = recipe, images
        # Channels last in memory, which is faster.
        self._model = network_of(recipe, images).to(memory_format=torch.channels_last)
        self._example = images.train[0][:2]
        self._watch: Watch = watch_for(recipe.watch, self._model, images)
        self._seconds = 0.0
        self._curve: list[tuple[int, float, float]] = []
        self._gradients: tuple[float, ...] = ()

    def outcome(self) -> Outcome:
        finite = self._train()
        if not finite:
            return Outcome(None, None, None, None, tuple(self._curve), self._gradients, self._watch.found())
        test, train = self._judged(self._images.test), self._judged(some_of(self._images.train, JUDGED))
        self._watch.end()
        return Outcome(
            test.top1, train.top1, test.loss, train.loss, tuple(self._curve), self._gradients, self._watch.found()
        )

    def _judged(self, labelled: Labelled) -> Evaluation:
        return evaluate(self._model, batches_of(labelled), quiet=True)

    def _train(self) -> bool:
        """Make all steps; whether loss and weights stayed finite."""
        recipe, model = self._recipe, self._model
        steps, every = recipe.budget.steps, max(1, recipe.budget.steps // recipe.budget.looks)
        config = TrainingConfig(steps=steps, lr=recipe.rate, seed=recipe.seed)
        trained = trained_parameters(model, self._example, "all", batch_statistics=True)
        with ExitStack() as stack:
            stack.enter_context(trained_alone(model, trained))
            pool = self._statistics(stack)
            optimizer = optimizer_for(config, trained)
            rates = rates_for(config, optimizer, steps)
            for step, micros in zip(range(steps), self._steps(), strict=False):
                start = time.process_time()
                rates.step_update(step)
                loss = self._gradient(step, micros)
                self._seconds += time.process_time() - start
                if not math.isfinite(loss):
                    return False
                if step == 0:
                    self._gradients = tuple(map(_relative_gradient, weighted(model)))
                self._watch.before(step, steps, micros, optimizer)
                start = time.process_time()
                optimizer.step()
                optimizer.zero_grad()
                pool()
                self._seconds += time.process_time() - start
                if (step + 1) % every == 0 or step + 1 == steps:
                    found = self._judged(self._images.test)
                    if not math.isfinite(found.loss):
                        return False
                    self._curve.append((step + 1, self._seconds, found.top1))
        return all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())

    def _statistics(self, stack: ExitStack) -> Any:
        """Let norms use the statistics that the recipe asks for; returns what is to be called after each step."""
        norms = running_norms(self._model)
        if norms and self._recipe.frozen:
            stack.enter_context(frozen_statistics(self._model, self._example))
        elif norms and self._recipe.share is not None:
            return stack.enter_context(pooled_statistics(norms, lambda mine: [mine]))
        return _nothing

    def _steps(self) -> Iterator[list[Labelled]]:
        """The batches of each step, epoch after epoch; a step has several where fewer images share statistics."""
        recipe, (pixels, labels) = self._recipe, self._images.train
        for epoch in range(recipe.budget.steps):
            order = epoch_order(len(labels), recipe.seed, epoch)
            for rows in micro_batches(order, recipe.budget.batch_size, 1):
                yield [_taken(pixels, labels, some) for some in shared_out(rows, recipe.share)]

    def _gradient(self, step: int, micros: list[Labelled]) -> float:
        """Leave the gradient of a step in the parameters; returns its mean loss."""
        self._model.train()
        torch.manual_seed(seed_of("dropout", self._recipe.seed, step))
        total, images = 0.0, sum(len(labels) for _, labels in micros)
        for pixels, labels in micros:
            loss = functional.cross_entropy(self._model(pixels), labels) * (len(labels) / images)
            torch.autograd.backward(loss)
            total += float(loss.detach())
        return total


def shared_out(rows: Tensor, share: int | None) -> list[Tensor]:
    """The images of a step, cut into those that share their statistics; what would be one alone goes with the last."""
    parts = list(rows.split(len(rows) if share is None else share))
    if len(parts) > 1 and len(parts[-1]) < 2:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _taken(pixels: Tensor, labels: Tensor, rows: Tensor) -> Labelled:
    return pixels[rows].to(memory_format=torch.channels_last), labels[rows]


def _nothing() -> None:
    """Do nothing after a step."""


def _relative_gradient(layer: nn.Module) -> float:
    weight: Any = layer.weight
    gradient: Tensor | None = weight.grad
    if gradient is None:
        return 0.0
    return float(gradient.double().norm() / weight.detach().double().norm())
