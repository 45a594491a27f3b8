"""Two models run side by side, stopping at the same layers: the results of one layer at a time are in memory.

Each model runs in a thread of its own, and only one of them at a time. At a layer that is paired with one of the other
model, its thread hands over the result and waits until the other has come to its counterpart and both were compared.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.batches import Batch
from bnretrofit.trials.running import Models, Outputs, call

__all__ = ["Point", "side_by_side"]


@dataclass(frozen=True, slots=True)
class Point:
    """A result within a model: of one of a module's calls.

    Attributes:
        module: The module's name.
        call: Which of its calls in one pass, from 0.
    """

    module: str
    call: int = 0


class _StoppedError(BaseException):
    """The other model has failed: there is nothing to go on for."""


class _Runner:
    """A model's pass, which stops at its points.

    Args:
        model: In eval mode.
        points: The number of each point's pair.
    """

    def __init__(self, model: nn.Module, points: Mapping[Point, int]) -> None:
        self.model = model
        self.points = points
        self.results: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        self.turns: SimpleQueue[bool] = SimpleQueue()
        self.last = -1
        self.thread: Thread | None = None

    def start(self, batch: Batch) -> None:
        """Begin; the first turn is to be given."""
        self.thread = Thread(target=self._run, args=(batch,), daemon=True)
        self.thread.start()

    def next(self) -> tuple[int, Any]:
        """Run on to the next point: its pair's number and its result; a number past all others at the end."""
        self.turns.put(True)
        number, result = self.results.get()
        if isinstance(result, BaseException):
            raise result
        self.last = number
        return number, result

    def stop(self) -> None:
        """Let go of a pass that is to go no further."""
        self.turns.put(False)
        if self.thread is not None:
            self.thread.join()

    def _run(self, batch: Batch) -> None:
        try:
            self._turn()
            # What a thread may compute with is its own: modes are not handed on.
            with torch.inference_mode(), ExitStack() as hooks:
                for hook in self._hooks():
                    hooks.enter_context(hook)
                outputs = call(self.model, batch)
            self.results.put((END, outputs))
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            self.results.put((END, error))

    def _turn(self) -> None:
        if not self.turns.get():
            raise _StoppedError

    def _hooks(self) -> list[Any]:
        seen: Counter[str] = Counter()

        def hook_for(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                # Both models may be the same one.
                if current_thread() is not self.thread:
                    return
                number = self.points.get(Point(name, seen[name]))
                seen[name] += 1
                # A model may run its layers in another order than its graph has them: what is past, is left out.
                if number is not None and number > self.last and isinstance(output, Tensor):
                    self.results.put((number, output))
                    self._turn()

            return hook

        names = dict.fromkeys(point.module for point in self.points)
        return [self.model.get_submodule(name).register_forward_hook(hook_for(name)) for name in names]


END = 2**62


def side_by_side(
    models: Models,
    batches: tuple[Batch, Batch],
    pairs: Sequence[tuple[Point, Point]],
    visit: Callable[[int, Tensor, Tensor], None],
) -> Outputs:
    """Run both models on a batch and show the results of every pair, in the order in which they come.

    Args:
        models: Both in eval mode.
        batches: The batch, for each model, which it may overwrite.
        pairs: Points of the first and of the second model, in the order in which both run them.
        visit: Takes a pair's number and both results, which it must neither keep nor change.

    Returns:
        What both models return.

    Raises:
        InputRejectedError: A model does not take the batch.
    """
    runners = tuple(
        _Runner(model, {pair[side]: number for number, pair in enumerate(pairs)}) for side, model in enumerate(models)
    )
    try:
        for runner, batch in zip(runners, batches, strict=True):
            runner.start(batch)
        a, b = runners[0].next(), runners[1].next()
        while a[0] != END or b[0] != END:
            if a[0] == b[0]:
                visit(a[0], a[1], b[1])
                # Neither result may be held while the models go on.
                number = a[0]
                a = b = (number, None)
                a, b = runners[0].next(), runners[1].next()
            elif a[0] < b[0]:
                a = runners[0].next()
            else:
                b = runners[1].next()
        return a[1], b[1]
    finally:
        for runner in runners:
            runner.stop()
