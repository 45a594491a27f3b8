"""Report: what verification found, as data, text and JSON; and the tolerances, all named here."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["TOLERANCES", "Report", "Tolerance", "report_document", "tolerance_for"]


def report_document(report: Any) -> dict[str, Any]:
    """A report's fields as a JSON document; a figure that is not finite becomes its name as a string."""
    document = dataclasses.asdict(report)
    for name, value in document.items():
        if isinstance(value, float) and not math.isfinite(value):
            document[name] = str(value)
    return {**document, "notes": list(report.notes)}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two computations of the same function may part.

    Attributes:
        rtol: Output error relative to the largest output magnitude of the same sample.
        atol: Output error that is always allowed, in the output's unit.
        tensor: Error of an effective weight relative to the largest element of its tensor.
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
    # Unit of rounding 2e-3, and about ten layers' worth of it; a weight off by 1 % is more than three.
    torch.bfloat16: Tolerance(rtol=5e-2, atol=1e-3, tensor=6e-3),
}


def tolerance_for(dtype: torch.dtype) -> Tolerance:
    """The tolerance for models of a dtype; float32's for dtypes that are not named."""
    return TOLERANCES.get(dtype, TOLERANCES[torch.float32])


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
        if self.top1_agreement is not None:
            lines.append(f"  top-1       {100 * self.top1_agreement:.2f} % of the samples agree")
        if self.difference is not None:
            lines.append(f"  difference  {self.difference}")
        if self.layer:
            lines.append(f"  layer       {self.layer}")
        if self.reason is not None:
            lines.append(f"  reason      {self.reason}")
        lines += [f"  note        {note}" for note in self.notes]
        return "\n".join(lines)
