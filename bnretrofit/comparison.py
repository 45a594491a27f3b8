"""Report: what verification found, as data, text and JSON; and the tolerances, all named here."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch

from bnretrofit.findings import BatchDrift, LayerError, Tried

__all__ = ["TOLERANCES", "Report", "Tolerance", "finite", "report_document", "tolerance_between", "tolerance_for"]


def report_document(report: Any) -> dict[str, Any]:
    """A report's fields as a JSON document; a figure that is not finite becomes its name as a string."""
    document: dict[str, Any] = finite(dataclasses.asdict(report))
    return document


def finite(value: Any) -> Any:
    """A JSON document in which every figure that is not finite is its name as a string."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two computations of the same function may part.

    Attributes:
        rtol: Output error relative to the largest output magnitude of the same sample.
        atol: Output error that is always allowed, in the output's unit.
        tensor: Error of an effective tensor, as `weights.weight_error` measures it.
    """

    rtol: float
    atol: float
    tensor: float


TOLERANCES: dict[torch.dtype, Tolerance] = {
    # Sixteen units of rounding (1.1e-16) per layer, through up to a few hundred layers.
    torch.float64: Tolerance(rtol=1e-11, atol=1e-13, tensor=1e-12),
    # Unit of rounding 6e-8. Folding a VGG-16 or a DenseNet-121 moves float32 outputs by 1e-6 to 1e-5 of their scale, as
    # much as another batch size or memory layout does; weights folded by other tools in float32 are within 1e-5.
    torch.float32: Tolerance(rtol=1e-4, atol=1e-6, tensor=1e-4),
    # Unit of rounding 4.9e-4, and about ten layers' worth of it.
    torch.float16: Tolerance(rtol=1e-2, atol=1e-4, tensor=2e-3),
    # Unit of rounding 2e-3, and about ten layers' worth of it. A weight, a norm's weight and its variance, all rounded,
    # make up to 7e-3 together; a weight off by 1 % is more than that.
    torch.bfloat16: Tolerance(rtol=5e-2, atol=1e-3, tensor=8e-3),
}


def tolerance_for(dtype: torch.dtype) -> Tolerance:
    """The tolerance for models of a dtype; float32's for dtypes that are not named."""
    return TOLERANCES.get(dtype, TOLERANCES[torch.float32])


def tolerance_between(a: torch.dtype, b: torch.dtype, rtol: float | None, atol: float | None) -> Tolerance:
    """The tolerance for two models: the coarser dtype's, with what was asked for in its place."""
    coarser = max(tolerance_for(a), tolerance_for(b), key=lambda tolerance: tolerance.rtol)
    return Tolerance(
        coarser.rtol if rtol is None else rtol, coarser.atol if atol is None else atol, tensor=coarser.tensor
    )


@dataclass(frozen=True, slots=True)
class Report:
    """Whether two models are the same function. Strongest answer first.

    Attributes:
        passed: The verdict: proved, or outputs within tolerance and no tensor that differs beyond it.
        proved: The captured graphs are the same operators with the same arguments and tensors, once norms that are the
            kernel's exact identity are dropped: equal for every finite input of the captured shapes, on this device and
            dtype. Never true of models whose outputs differ on an input that was tried.
        bit_identical: Every output on every input tried is equal, bit for bit (-0.0 counts as 0.0).
        max_abs_error: Largest output difference over all inputs, in the output's unit; NaN if any output is NaN.
        mean_abs_error: Mean output difference over all inputs.
        p99_abs_error: 99 % of the samples' largest differences are at most this.
        max_rel_error: Largest over the samples of (largest difference / largest output magnitude).
        required_rtol: The smallest rtol that would have passed, with this atol.
        rtol: The rtol that was asked for.
        atol: The atol that was asked for.
        top1_agreement: Share of the given samples with the same largest output; None for outputs that are not (N, K).
        samples: Given samples that were compared.
        random_samples: Random samples that were compared besides.
        difference: The first or largest difference of graphs or tensors, as a sentence; None if there is none.
        layer: The module it belongs to, named as in the second model.
        tensor_error: Largest relative difference of (effective) tensors, where the operators agree.
        reason: Why it failed; None if it passed.
        notes: What could not be checked.
        floor: Relative error of the first model's own precision against float64, on some samples; None if not measured.
        tried: What each kind of input showed. The errors above are of given and random ones alone: one in the output's
            unit says little of an input of a million. All kinds count for the verdicts and `required_rtol`.
        layers: How far the models have parted at each layer; None where it was not asked for.
        drift: What batch statistics do to the second model's outputs, by batch size; empty where it was not asked for.
    """

    passed: bool
    proved: bool
    bit_identical: bool
    max_abs_error: float
    mean_abs_error: float
    p99_abs_error: float
    max_rel_error: float
    required_rtol: float
    rtol: float
    atol: float
    top1_agreement: float | None
    samples: int
    random_samples: int
    difference: str | None = None
    layer: str | None = None
    tensor_error: float | None = None
    reason: str | None = None
    notes: tuple[str, ...] = ()
    floor: float | None = None
    tried: tuple[Tried, ...] = ()
    layers: tuple[LayerError, ...] | None = None
    drift: tuple[BatchDrift, ...] = ()

    @property
    def first_divergent(self) -> LayerError | None:
        """The first layer at which the models part by more than rounding, where layers were compared."""
        return next((layer for layer in self.layers or () if layer.diverges), None)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON document; a figure that is not finite becomes its name as a string."""
        return report_document(self)

    def __str__(self) -> str:
        verdict = "PASSED" if self.passed else "FAILED"
        level = "proved equal for every finite input" if self.proved else "not proved"
        samples = "1 sample" if self.samples == 1 else f"{self.samples} samples"
        bits = "bit-identical" if self.bit_identical else "not bit-identical"
        error = f"max {self.max_abs_error:.3g}, mean {self.mean_abs_error:.3g}, relative {self.max_rel_error:.3g}"
        allowed = f"rtol {self.rtol:g}, atol {self.atol:g}; the smallest rtol that passes is {self.required_rtol:.3g}"
        lines = [
            f"{verdict}: {level}; {bits} on {samples} and {self.random_samples} random",
            f"  error       {error}; 99 % of samples below {self.p99_abs_error:.3g}",
            f"  tolerance   {allowed}",
        ]
        if self.floor is not None:
            lines.append(f"  floor       relative {self.floor:.3g}: the first model's own rounding, against float64")
        extremes = [tried for tried in self.tried if tried.kind not in ("given", "random")]
        if extremes:
            lines.append(f"  extremes    {', '.join(map(_shown, extremes))}")
        if self.top1_agreement is not None:
            lines.append(f"  top-1       {100 * self.top1_agreement:.2f} % of the samples agree")
        if self.difference is not None:
            lines.append(f"  difference  {self.difference}")
        if self.layer:
            lines.append(f"  layer       {self.layer}")
        if self.layers is not None:
            first = self.first_divergent
            found = "none beyond rounding" if first is None else f"from {first.layer} on"
            lines.append(f"  divergence  {found}; {len(self.layers)} layers compared")
        lines += [
            f"  drift       with batch statistics the second model's outputs move by {drift}" for drift in self.drift
        ]
        if self.reason is not None:
            lines.append(f"  reason      {self.reason}")
        lines += [f"  note        {note}" for note in self.notes]
        return "\n".join(lines)


def _shown(tried: Tried) -> str:
    if not tried.finite:
        return f"{tried.kind} not finite"
    rounding = f" (rounding alone: {tried.floor:.3g})" if tried.excused and tried.floor is not None else ""
    return f"{tried.kind} {tried.max_rel_error:.3g}{rounding}"
