"""What a model's own precision does to its outputs: the same model in float64, beside itself."""

import math

import torch
from torch import nn

from bnretrofit.batches import Batch, dtype_of
from bnretrofit.copies import independent_copy
from bnretrofit.differences import Differences
from bnretrofit.errors import InputRejectedError
from bnretrofit.trials.inputs import first_samples
from bnretrofit.trials.running import add_outputs, call, input_for

__all__ = ["FLOOR_SAMPLES", "ReferenceFloor"]

FLOOR_SAMPLES = 4


class ReferenceFloor:
    """How far a model is from itself in float64. The copy is made when the first figure is asked for.

    Args:
        model: The reference, in eval mode.

    Attributes:
        obstacle: Why there is no floor, as a sentence; None while there is one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.obstacle: str | None = None
        self._exact: nn.Module | None = None
        if dtype_of(model) == torch.float64:
            self.obstacle = "the model is in float64 itself"
        elif next(model.parameters(), None) is None and next(model.buffers(), None) is None:
            self.obstacle = "the model has no tensors that could be float64"

    @property
    def exact(self) -> nn.Module | None:
        """The model in float64; None where it cannot be had."""
        if self._exact is None and self.obstacle is None:
            try:
                self._exact = independent_copy(self.model).double().eval()
            except (InputRejectedError, RuntimeError, TypeError) as error:
                self.obstacle = f"the model cannot be made one of float64: {str(error).splitlines()[0]}"
        return self._exact

    def error_on(self, batch: Batch) -> float | None:
        """The largest relative error of the model against float64 on the first samples; None if it cannot be told."""
        exact, some = self.exact, first_samples(batch, FLOOR_SAMPLES)
        if exact is None:
            return None
        differences = Differences(0.0)
        try:
            with torch.inference_mode():
                rounded = call(self.model, input_for(self.model, some, None))
                add_outputs(differences, (call(exact, input_for(exact, some, torch.float64)), rounded))
        except InputRejectedError as error:
            self.obstacle, self._exact = f"in float64 {error}", None
            return None
        found = differences.max_rel
        return None if differences.nan or differences.problem or not math.isfinite(found) else found
