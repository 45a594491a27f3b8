"""Two models run side by side, stopping at the same layers: the results of one layer at a time are in memory.

The second model runs in a greenlet: a stack of its own in the same thread, which is left at a layer and gone on with
later. At a layer that is paired with one of the other model, the first lets the second run up to its counterpart, and
both results are shown.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from greenlet import getcurrent, greenlet
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


@contextmanager
def _shown(model: nn.Module, points: Mapping[Point, int], show: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While it lasts, what the model gives at its points is shown, on the stack on which this was entered."""
    seen: Counter[str] = Counter()
    mine = getcurrent()

    def hook_for(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # Both models may be the same one.
            if getcurrent() is mine:
                number = points.get(Point(name, seen[name]))
                seen[name] += 1
                if number is not None and isinstance(output, Tensor):
                    show(number, output)

        return hook

    with ExitStack() as hooks:
        for name in dict.fromkeys(point.module for point in points):
            hooks.enter_context(model.get_submodule(name).register_forward_hook(hook_for(name)))
        yield


Precision = tuple[tuple[str, bool, torch.dtype], ...]
"""Of mixed precision, which is a thread's: each kind of device, whether it is on, and in which dtype."""


def _precision() -> Precision:
    kinds = [kind for kind in ("cpu", "cuda") if torch.amp.is_autocast_available(kind)]
    return tuple((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)


def _set_precision(precision: Precision) -> None:
    for kind, enabled, dtype in precision:
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


class _Follower:
    """The second model.

    Args:
        model: In eval mode.
        points: The number of each point's pair.
    """

    def __init__(self, model: nn.Module, points: Mapping[Point, int]) -> None:
        self.model = model
        self.points = points
        self.reached = END
        self.result: Any = None
        self._stack = greenlet(self._work)
        self._given: tuple[Any, ...] = ()

    def begin(self, batch: Batch) -> None:
        """Be given a batch; nothing runs before the first turn."""
        self.reached, self.result = -1, None
        self._stack = greenlet(self._work)
        self._given = (batch, _precision())

    def advance(self) -> None:
        """Run on to the next point, or to the end."""
        self.result = None
        self._stack.parent = getcurrent()
        given, self._given = self._given, ()
        # The first model may have been left within a block of mixed precision, and finds itself there again.
        mine = _precision()
        try:
            self.reached, self.result = self._stack.switch(*given)
        finally:
            _set_precision(mine)

    def leave(self) -> None:
        """Let go of a pass that is to go no further."""
        if self._stack:
            self._stack.throw()
        self.reached, self.result, self._given = END, None, ()

    def _work(self, batch: Batch, precision: Precision) -> tuple[int, Any]:
        _set_precision(precision)
        with _shown(self.model, self.points, self._show):
            return END, call(self.model, batch)

    def _show(self, number: int, output: Tensor) -> None:
        # A model may run its layers in another order than its graph has them: what is past, is left out.
        if number > self.reached and self._stack.parent is not None:
            mine = _precision()
            self._stack.parent.switch((number, output))
            _set_precision(mine)


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
        self._follower.leave()

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
            with torch.inference_mode():
                with _shown(self._model, self._points, show):
                    outputs = call(self._model, batches[0])
                while follower.reached != END:
                    follower.advance()
            return outputs, follower.result or []
        finally:
            follower.leave()
            follower.result = None
