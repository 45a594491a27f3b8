"""Outputs of two models, batch by batch -> how far they part, and how many samples each classifies rightly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Accuracy", "Differences"]


@dataclass(slots=True)
class Accuracy:
    """Top-1 hits of two models on labelled samples, counted while they are compared.

    Attributes:
        labels_for: The samples' labels for a classifier of so many outputs, in order; None if they are not known.
        outputs: How many outputs the models have; None before there was any, or where they are no classifiers.
    """

    labels_for: Callable[[int], Sequence[int] | None]
    hits: list[int] = field(default_factory=lambda: [0, 0])
    seen: int = 0
    outputs: int | None = None

    def add(self, outputs: tuple[Tensor, Tensor]) -> None:
        """Count a batch: outputs (N, K), for the next N labels."""
        self.outputs = outputs[0].shape[1]
        labels = self.labels_for(self.outputs)
        if labels is None:
            return
        wanted = torch.tensor(labels[self.seen : self.seen + len(outputs[0])])
        for model, output in enumerate(outputs):
            self.hits[model] += int((output.argmax(1).cpu() == wanted).sum())
        self.seen += len(outputs[0])

    def shares(self) -> tuple[float, float] | None:
        """Top-1 accuracy of the first and the second model, 0 to 1; None if nothing was counted."""
        return (self.hits[0] / self.seen, self.hits[1] / self.seen) if self.seen else None


@dataclass(slots=True)
class Differences:
    """How far the outputs of two models have parted, gathered batch by batch.

    Attributes:
        atol: Error that is always allowed.
        problem: A difference that no tolerance covers, as a sentence.
    """

    atol: float
    bit_identical: bool = True
    max_abs: float = 0.0
    total: float = 0.0
    elements: int = 0
    max_rel: float = 0.0
    required: float = 0.0
    sample_errors: list[Tensor] = field(default_factory=list)
    agreed: int = 0
    ranked: int = 0
    nan: bool = False
    problem: str | None = None

    def add(self, a: Tensor, b: Tensor) -> None:
        """Compare one output of a batch, (N, ...)."""
        if a.shape != b.shape:
            self.problem = f"the outputs have shapes {tuple(a.shape)} and {tuple(b.shape)}"
            return
        b = b.to(a.device)
        self.bit_identical &= a.dtype == b.dtype and torch.equal(a, b)
        if not a.dtype.is_floating_point:
            if a.dtype != b.dtype or not torch.equal(a, b):
                self.problem = "outputs that are no floating-point numbers differ"
            return
        if not a.numel():
            return
        rows = len(a) if a.dim() else 1
        left, right = a.double().reshape(rows, -1), b.double().reshape(rows, -1)
        if not (torch.isfinite(left).all() and torch.isfinite(right).all()):
            self.nan = True
            return
        errors = (left - right).abs()
        largest, scale = errors.amax(1), left.abs().amax(1)
        self.max_abs = max(self.max_abs, float(largest.max()))
        self.total += float(errors.sum())
        self.elements += errors.numel()
        # 0 / 0 is no error; anything over an all-zero output is infinite.
        self.max_rel = max(self.max_rel, float(torch.where(largest == 0, 0.0, largest / scale).max()))
        beyond = (largest - self.atol).clamp_min(0)
        self.required = max(self.required, float(torch.where(beyond == 0, 0.0, beyond / scale).max()))
        self.sample_errors.append(largest.cpu())

    @property
    def same_bits(self) -> bool:
        """Whether all outputs were equal, bit for bit, and finite."""
        return self.bit_identical and self.problem is None and not self.nan

    @staticmethod
    def joined(parts: Sequence["Differences"], atol: float) -> "Differences":
        """All that several have gathered, as one."""
        return Differences(
            atol,
            all(part.bit_identical for part in parts),
            max((part.max_abs for part in parts), default=0.0),
            sum(part.total for part in parts),
            sum(part.elements for part in parts),
            max((part.max_rel for part in parts), default=0.0),
            max((part.required for part in parts), default=0.0),
            [errors for part in parts for errors in part.sample_errors],
            sum(part.agreed for part in parts),
            sum(part.ranked for part in parts),
            any(part.nan for part in parts),
            next((part.problem for part in parts if part.problem is not None), None),
        )

    def rank(self, a: Tensor, b: Tensor) -> None:
        """Count the samples on which two (N, K) outputs have the same largest entry."""
        if a.shape == b.shape:
            self.agreed += int((a.argmax(1) == b.to(a.device).argmax(1)).sum())
            self.ranked += len(a)
