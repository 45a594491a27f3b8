"""What norms cost, in training and once they are folded."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnretrofit.folding import fold
from bnretrofit.norms import running_norms
from bnretrofit.studies.findings import Axes, Finding, Plot, Series, Spread, times
from bnretrofit.studies.images import some_of
from bnretrofit.studies.learning import network_of
from bnretrofit.studies.recipes import Budget, Recipe
from bnretrofit.studies.results import NAMES, Results
from bnretrofit.studies.study import Study
from bnretrofit.training.frozen_statistics import frozen_statistics

__all__ = ["STUDY", "kept_for_gradient"]

ROUNDS = 15
FROZEN, FOLDED = "with norms, frozen statistics", "with norms, folded"


def recipes(_budget: Budget, _seeds: Sequence[int]) -> list[Recipe]:
    """Nothing is trained to the end."""
    return []


def find(study: Study, results: Results) -> Finding:
    """Seconds and memory of a step, and seconds of inference, over those without norms."""
    # Of their own memory: a part of all images would count as all of them.
    pixels, labels = some_of(results.images.train, results.budget.batch_size)
    pixels = pixels.to(memory_format=torch.channels_last)
    plain, normed = (
        network_of(Recipe(results.budget, norms, 0.1, 0), results.images).to(memory_format=torch.channels_last)
        for norms in (False, True)
    )
    folded = fold(normed, pixels).eval()
    left = len(running_norms(folded))

    def step(network: nn.Module) -> None:
        network.train()
        torch.autograd.backward(functional.cross_entropy(network(pixels), labels))
        network.zero_grad()

    def infer(network: nn.Module) -> None:
        with torch.inference_mode():
            network.eval()(pixels)

    with frozen_statistics(normed, pixels[:2]):
        frozen_memory = kept_for_gradient(normed, pixels)
        frozen = _ratios({NAMES[False]: lambda: step(plain), FROZEN: lambda: step(normed)})[FROZEN]
    trained = _ratios({NAMES[False]: lambda: step(plain), NAMES[True]: lambda: step(normed)})[NAMES[True]]
    runs = {NAMES[False]: plain, NAMES[True]: normed, FOLDED: folded}
    inferred = _ratios({name: lambda network=network: infer(network) for name, network in runs.items()})  # type: ignore[misc]
    kept = kept_for_gradient(plain, pixels)
    memory = {NAMES[True]: kept_for_gradient(normed, pixels) / kept, FROZEN: frozen_memory / kept}
    answer = (
        f"A step takes {trained.mean:.2f} times as long with norms as without, and keeps {memory[NAMES[True]]:.2f} "
        f"times as many bytes for the gradient; with frozen statistics {frozen.mean:.2f} and {memory[FROZEN]:.2f} "
        "times. "
        f"Inference takes {inferred[NAMES[True]].mean:.2f} times as long, folded {inferred[FOLDED].mean:.2f} times."
    )
    rows = [
        (NAMES[True], times(trained), f"{memory[NAMES[True]]:.2f}", times(inferred[NAMES[True]])),
        (FROZEN, times(frozen), f"{memory[FROZEN]:.2f}", times(inferred[NAMES[True]])),
        (FOLDED, "", "", times(inferred[FOLDED])),
    ]
    header = ("over the network without norms", "seconds of a step", "bytes kept for the gradient", "inference")
    one = Spread(1.0, 1.0, 1.0)
    series = (
        Series("step", (0.0, 1.0, 2.0), (one, trained, frozen)),
        Series("inference", (0.0, 1.0, 3.0), (one, inferred[NAMES[True]], inferred[FOLDED])),
    )
    axes = Axes("network", "seconds, over those without norms", names=(NAMES[False], NAMES[True], "frozen", "folded"))
    # Quartiles, so that noise alone is no cost.
    held = trained.least > 1 and memory[NAMES[True]] > 1 and not left and inferred[FOLDED].least <= 1
    return study.found(answer, header, rows, Plot(axes, series), held=held)


def _ratios(works: dict[str, Callable[[], Any]]) -> dict[str, Spread]:
    """Seconds of each over those of the first: quartiles of the ratios within a round, and their median as the mean."""
    for work in works.values():
        work()
    names, seconds = list(works), {name: [0.0] * ROUNDS for name in works}
    for number in range(ROUNDS):
        # Who begins changes, so that what a round does to its first or last is shared out.
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            start = time.perf_counter()
            works[name]()
            seconds[name][number] = time.perf_counter() - start
    found = {}
    for name in names[1:]:
        each = [mine / base for mine, base in zip(seconds[name], seconds[names[0]], strict=True)]
        low, median, high = statistics.quantiles(each, n=4)
        found[name] = Spread(median, low, high)
    return found


def kept_for_gradient(network: nn.Module, pixels: Tensor) -> int:
    """Bytes that a forward pass in training keeps for the gradient, parameters aside, each storage once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    # What is kept has to stay alive while it is counted, or two tensors could have the same address.
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = network.train()(pixels)
    return sum(kept.values()) if output.requires_grad else 0


STUDY = Study(
    "cost",
    "cost time and memory in training, and nothing once they are folded",
    f"Seconds of a step and of inference, {ROUNDS} rounds in turns: median (quartiles) of the ratio to the network "
    "without norms; and the bytes that a forward pass keeps for the gradient. A step is the forward and the backward "
    "pass. The claim holds if a step costs more of both beyond the quartiles, no norm is left after folding, and "
    "inference then takes no longer within them.",
    recipes,
    find,
    uses="images",
)
