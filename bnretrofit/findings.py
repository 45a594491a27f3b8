"""What a verification found besides its verdict: on each kind of input, at each layer, in training mode."""

import math
from dataclasses import dataclass

__all__ = ["BEYOND_ROUNDING", "BatchDrift", "LayerError", "Tried"]

BEYOND_ROUNDING = 16.0
"""Two ways to compute the same function in one precision part by a few times what that precision parts from float64."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What one kind of input showed.

    Attributes:
        kind: "given", "random", "zeros", "ones", "huge", "denormal", "saturated" or "adversarial".
        samples: How many were compared.
        bit_identical: Every output is equal, bit for bit (-0.0 counts as 0.0).
        finite: No output of either model is NaN or infinite.
        max_abs_error: Largest output difference, in the output's unit.
        max_rel_error: Largest over the samples of (largest difference / largest output magnitude).
        required_rtol: The smallest rtol that would have passed, with the report's atol.
        floor: The relative error of the first model's own precision against float64, on the first of these samples;
            None where it was not measured.
        excused: Beyond the tolerance, but not beyond what rounding does to the first model itself on this input.
    """

    kind: str
    samples: int
    bit_identical: bool
    finite: bool
    max_abs_error: float
    max_rel_error: float
    required_rtol: float
    floor: float | None = None
    excused: bool = False


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far two models have parted at a layer, over all given inputs.

    Attributes:
        reference: The layer's name in the first model.
        layer: Its name in the second; that of the norm where the norm gives the result.
        max_abs_error: Largest difference of an element.
        max_rel_error: Largest over the samples of (largest difference / largest magnitude).
        floor: The relative error of the first model's own precision against float64 at this layer, on some samples;
            None where it could not be measured.
        allowed: What would be allowed where there is no floor.
    """

    reference: str
    layer: str
    max_abs_error: float
    max_rel_error: float
    floor: float | None
    allowed: float

    @property
    def diverges(self) -> bool:
        """Whether the error is more than rounding."""
        limit = self.allowed if self.floor is None else BEYOND_ROUNDING * self.floor
        return math.isnan(self.max_rel_error) or self.max_rel_error > limit


@dataclass(frozen=True, slots=True)
class BatchDrift:
    """How far the second model's outputs with batch statistics are from those with running statistics.

    Attributes:
        batch_size: Samples that share their statistics.
        relative_rms: Root mean square of the difference, relative to that of the outputs.
        samples: How many were compared.
    """

    batch_size: int
    relative_rms: float
    samples: int

    def __str__(self) -> str:
        return f"{self.relative_rms:.3g} of the outputs' size at batch {self.batch_size}"
