"""Two models on batches -> how far they have parted at each layer, one layer's results in memory at a time."""

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from bnretrofit.batches import Batch, dtype_of
from bnretrofit.errors import InputRejectedError
from bnretrofit.findings import LayerError
from bnretrofit.trials.floor import FLOOR_SAMPLES, ReferenceFloor
from bnretrofit.trials.inputs import first_samples
from bnretrofit.trials.lockstep import Point, SideBySide
from bnretrofit.trials.pairing import Pair
from bnretrofit.trials.running import Models, Outputs, input_for, inputs_for

__all__ = ["LayerErrors"]

CHUNK = 2**20
"""Elements that are compared at a time: what is computed of them stays in the cache."""


class LayerErrors:
    """The errors at each pair of points, gathered batch by batch.

    Args:
        models: Both in eval mode.
        pairs: See `pairing.paired_points`.
    """

    def __init__(self, models: Models, pairs: Sequence[Pair]) -> None:
        self.models = models
        self.pairs = pairs
        self.largest: dict[int, tuple[float, float]] = {}
        self._runs = SideBySide(models, pairs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._runs.__exit__(*error)

    def run(self, batch: Batch) -> Outputs:
        """Run both models on a batch, compare at every point, and return what they return."""
        return self._runs.run(inputs_for(self.models, batch), self._visit)

    def _visit(self, number: int, a: Tensor, b: Tensor) -> None:
        found, before = layer_error(a, b), self.largest.get(number, (0.0, 0.0))
        self.largest[number] = tuple(map(_larger, before, found))  # type: ignore[assignment]

    def found(self, floor: ReferenceFloor, example: Batch, allowed: float) -> tuple[LayerError, ...]:
        """What was found, in the order of the layers.

        Args:
            floor: Of the first model.
            example: Inputs on which the floor is measured.
            allowed: Relative error where there is no floor.
        """
        # Models of two precisions part by the rounding of the coarser one, wherever that is.
        alike = dtype_of(self.models[0]) == dtype_of(self.models[1])
        floors = _floors(floor, example, [pair[0] for pair in self.pairs]) if alike else {}
        return tuple(
            LayerError(_name(pair[0]), _name(pair[1]), *self.largest[number], floors.get(number), allowed)
            for number, pair in enumerate(self.pairs)
            if number in self.largest
        )


def layer_error(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The largest difference, and the largest over the samples of (largest difference / largest magnitude)."""
    if a.numel() != b.numel():
        return math.inf, math.inf
    # A norm may have tokens in rows, (N * L, C), where the layer without it has (N, L, C).
    a, b = a.reshape(b.shape), b.to(a.device)
    if a.dtype == b.dtype and torch.equal(a, b):
        return 0.0, 0.0
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    rows = max(1, CHUNK // max(a[0].numel(), 1)) if a.dim() else 1
    left, right = (tensor.flatten(1) if tensor.dim() > 1 else tensor.reshape(1, -1) for tensor in (a, b))
    worst, relative = 0.0, 0.0
    for mine, other in zip(left.split(rows), right.split(rows), strict=True):
        errors = (mine.to(wide) - other.to(wide)).abs_().amax(1)
        scale = torch.maximum(mine.amax(1), -mine.amin(1)).to(wide)
        shares = torch.where(errors == 0, errors, errors / scale)
        worst, relative = _larger(worst, float(errors.max())), _larger(relative, float(shares.max()))
    return worst, relative


def _larger(a: float, b: float) -> float:
    """The larger; NaN where either is, which Python's max would lose."""
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


def _floors(floor: ReferenceFloor, example: Batch, points: list[Point]) -> dict[int, float]:
    exact, some = floor.exact, first_samples(example, FLOOR_SAMPLES)
    if exact is None:
        return {}
    found: dict[int, float] = {}

    def visit(number: int, wanted: Tensor, rounded: Tensor) -> None:
        found[number] = layer_error(wanted, rounded)[1]

    batches = input_for(exact, some, torch.float64), input_for(floor.model, some, None)
    try:
        with SideBySide((exact, floor.model), [(point, point) for point in points]) as runs:
            runs.run(batches, visit)
    except InputRejectedError:
        return {}
    return {number: error for number, error in found.items() if math.isfinite(error)}


def _name(point: Point) -> str:
    return f"{point.module} (call {point.call + 1})" if point.call else point.module
