"""Two models run side by side, stopping at the same layers: the results of one layer at a time are in memory.

The first model runs in the calling thread, the second in one of its own, and only one of them at a time. At a layer
that is paired with one of the other model, the first lets the second run up to its counterpart, and both results are
shown.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Any, Self

import torch
from torch import Tensor, nn

from bnretrofit.batches import Batch
from bnretrofit.trials.running import Models, Outputs, call

__all__ = ["Point", "SideBySide"]

Visit = Callable[[int, Tensor, Tensor], None]
"""Takes a pair's number and both results, which it must neither keep nor change."""

END = 2**62
"""Stands for a point past all others: the model's results themselves."""


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
    """The other model has failed: there is nothing to go on for. No model catches it."""


@contextmanager
def _shown(model: nn.Module, points: Mapping[Point, int], show: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While it lasts, what the model gives at its points is shown, in the thread in which this was entered."""
    seen: Counter[str] = Counter()
    mine = current_thread()

    def hook_for(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # Both models may be the same one.
            if current_thread() is mine:
                number = points.get(Point(name, seen[name]))
                seen[name] += 1
                if number is not None and isinstance(output, Tensor):
                    show(number, output)

        return hook

    with ExitStack() as hooks:
        for name in dict.fromkeys(point.module for point in points):
            hooks.enter_context(model.get_submodule(name).register_forward_hook(hook_for(name)))
        yield


class _Follower:
    """The second model, in a thread that lasts: kernels keep their own threads and memory for each.

    Args:
        model: In eval mode.
        points: The number of each point's pair.
    """

    def __init__(self, model: nn.Module, points: Mapping[Point, int]) -> None:
        self.model = model
        self.points = points
        self.reached = END
        self.result: Any = None
        self._given: SimpleQueue[Batch | None] = SimpleQueue()
        self._turns: SimpleQueue[bool] = SimpleQueue()
        self._results: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def begin(self, batch: Batch) -> None:
        """Be given a batch; nothing runs before the first turn."""
        self.reached, self.result = -1, None
        self._given.put((batch,))

    def advance(self) -> None:
        """Run on to the next point, or to the end."""
        self.result = None
        self._turns.put(True)
        self.reached, result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        self.result = result

    def leave(self) -> None:
        """Let go of a pass that is to go no further."""
        if self.reached != END:
            self._turns.put(False)
            self.reached, self.result = END, None

    def close(self) -> None:
        """End the thread."""
        self.leave()
        self._given.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (given := self._given.get()) is not None:
            try:
                self._turn()
                # What a thread may compute with is its own: modes are not handed on.
                with torch.inference_mode(), _shown(self.model, self.points, self._show):
                    outputs = call(self.model, *given)
                self._results.put((END, outputs))
                del outputs
            except _StoppedError:
                pass
            except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
                self._results.put((END, error))
            del given

    def _turn(self) -> None:
        if not self._turns.get():
            raise _StoppedError

    def _show(self, number: int, output: Tensor) -> None:
        # A model may run its layers in another order than its graph has them: what is past, is left out.
        if number > self.reached:
            self._results.put((number, output))
            self._turn()


class SideBySide:
    """Runs two models, batch by batch.

    Args:
        models: Both in eval mode.
        pairs: Points of the first and of the second model, in the order in which both run them.
    """

    def __init__(self, models: Models, pairs: Sequence[tuple[Point, Point]]) -> None:
        self._model = models[0]
        self._points = {pair[0]: number for number, pair in enumerate(pairs)}
        self._follower = _Follower(models[1], {pair[1]: number for number, pair in enumerate(pairs)})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._follower.close()

    def run(self, batches: tuple[Batch, Batch], visit: Visit) -> Outputs:
        """Run both models on a batch and show the results of every pair, in the order in which they come.

        Args:
            batches: The batch, for each model, which it may overwrite.
            visit: Is shown each pair.

        Returns:
            What both models return.

        Raises:
            InputRejectedError: A model does not take the batch.
        """
        follower = self._follower

        def show(number: int, output: Tensor) -> None:
            while follower.reached < number:
                follower.advance()
            if follower.reached == number and follower.result is not None:
                visit(number, output, follower.result)
                # It may not be held while the models go on.
                follower.result = None

        follower.begin(batches[1])
        try:
            with torch.inference_mode(), _shown(self._model, self._points, show):
                outputs = call(self._model, batches[0])
            while follower.reached != END:
                follower.advance()
            return outputs, follower.result or []
        finally:
            follower.leave()
            follower.result = None
