"""What two models were tried on, kind by kind, and what each kind showed."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bnretrofit.batches import Batch, dtype_of, map_tensors, sample_count
from bnretrofit.comparison import Tolerance
from bnretrofit.differences import Differences
from bnretrofit.errors import InputRejectedError
from bnretrofit.findings import BEYOND_ROUNDING, Tried
from bnretrofit.trials.adversarial import worst_inputs
from bnretrofit.trials.floor import FLOOR_SAMPLES, ReferenceFloor
from bnretrofit.trials.inputs import EXTREMES, extreme_like, first_samples, is_floating, random_like
from bnretrofit.trials.running import Models, Outputs, add_outputs, inputs_for, outputs_of

__all__ = ["USUAL", "Trial", "Trials"]

USUAL = ("given", "random")
"""Kinds that are judged by the tolerance alone; the others may be beyond it as far as rounding explains that."""


@dataclass(slots=True)
class Trial:
    """One kind of input.

    Attributes:
        differences: Of the outputs.
        samples: Compared so far.
        reference_finite: No output of the first model was NaN or infinite.
        some: A few of the inputs, on which the floor is measured.
        floor: See `findings.Tried`.
        worst: The sample with the largest error, and that error.
    """

    differences: Differences
    samples: int = 0
    reference_finite: bool = True
    some: Batch = None
    floor: float | None = None
    worst: tuple[float, Batch] | None = None


class Trials:
    """Trials of two models.

    Args:
        models: Both in eval mode.
        tolerance: Of the outputs.
        keep_worst: Keep the worst sample of each kind.
    """

    def __init__(self, models: Models, tolerance: Tolerance, *, keep_worst: bool = False) -> None:
        self.models = models
        self.tolerance = tolerance
        self.keep_worst = keep_worst
        self.floor = ReferenceFloor(models[0])
        self.by_kind: dict[str, Trial] = {}
        self.notes: list[str] = []

    def add(self, kind: str, batch: Batch, outputs: Outputs) -> None:
        """Compare what both models returned for a batch."""
        trial = self.by_kind.setdefault(kind, Trial(Differences(self.tolerance.atol)))
        if trial.some is None:
            trial.some = inputs_for(self.models, first_samples(batch, FLOOR_SAMPLES))[0]
        add_outputs(trial.differences, outputs)
        trial.samples += sample_count(batch)
        trial.reference_finite &= _all_finite(outputs)
        if self.keep_worst:
            _keep_worst(trial, batch, outputs)

    def try_others(self, example: Batch, adversarial_steps: int) -> None:
        """Try random and extreme inputs of a batch's shapes, and search for the worst one from there."""
        if not is_floating(example):
            self.notes.append("no random inputs were tried: the model's inputs are not all floating-point tensors")
            return
        random = random_like(example)
        self.add("random", random, outputs_of(self.models, random))
        for kind in EXTREMES:
            extreme = extreme_like(kind, example, set(map(dtype_of, self.models)))
            try:
                self.add(kind, extreme, outputs_of(self.models, extreme))
            except InputRejectedError as error:
                self.notes.append(f"an input of {kind} was not tried: {error.why}")
        if adversarial_steps:
            self._climb(self.by_kind["given" if "given" in self.by_kind else "random"].some, adversarial_steps)

    def _climb(self, start: Batch, steps: int) -> None:
        try:
            found = worst_inputs(self.models, start, steps)
        except (InputRejectedError, RuntimeError) as error:
            self.notes.append(f"no adversarial input was searched for: {str(error).splitlines()[0]}")
            return
        if found is None:
            self.notes.append("no adversarial input was searched for: the outputs have no difference to climb")
            return
        # One by one: where the reference itself overflows on one, the others still tell.
        for number in range(sample_count(found)):
            one = _sample(found, number)
            outputs = outputs_of(self.models, one)
            if _all_finite(outputs):
                self.add("adversarial", one, outputs)
        if "adversarial" not in self.by_kind:
            self.notes.append("no adversarial input was tried: the first model's outputs are not finite there")

    def measure_floors(self) -> None:
        """Measure the floor of every kind that has none yet."""
        for trial in self.by_kind.values():
            if trial.floor is None:
                trial.floor = self.floor.error_on(trial.some)
        if self.floor.obstacle is not None:
            self.notes.append(f"rounding could not be measured: {self.floor.obstacle}")

    @property
    def worst(self) -> dict[str, Batch]:
        """For each kind, the sample with the largest error, where there is one."""
        found = {kind: trial.worst for kind, trial in self.by_kind.items()}
        return {kind: worst[1] for kind, worst in found.items() if worst is not None and worst[0] > 0}

    @property
    def agreement(self) -> float | None:
        """Share of the given samples on which both have the same largest output; None where there are no logits."""
        given = self.by_kind.get("given")
        ranked = 0 if given is None else given.differences.ranked
        return given.differences.agreed / ranked if given is not None and ranked else None

    @property
    def usual(self) -> Differences:
        """Of given and random inputs together."""
        found = [self.by_kind[kind].differences for kind in USUAL if kind in self.by_kind]
        return Differences.joined(found, self.tolerance.atol)

    def reasons(self) -> dict[str, str]:
        """For each kind that shows a difference beyond what is allowed, what it is, as a sentence."""
        found = {kind: self._reason(kind, trial) for kind, trial in self.by_kind.items()}
        return {kind: reason for kind, reason in found.items() if reason is not None}

    def _reason(self, kind: str, trial: Trial) -> str | None:
        differences, rtol = trial.differences, self.tolerance.rtol
        on = "" if kind in USUAL else f" on an input of {kind}" if kind in EXTREMES else f" on an {kind} input"
        if differences.problem is not None:
            return differences.problem + on
        if differences.nan:
            # Nobody asked for that input: an overflow of the reference itself says nothing of the other model, and
            # neither does one of another precision.
            alike = dtype_of(self.models[0]) == dtype_of(self.models[1])
            return f"an output is NaN or infinite{on}" if kind in USUAL or (trial.reference_finite and alike) else None
        if differences.required <= rtol or self._is_explained(kind, trial):
            return None
        return f"the outputs differ by {differences.max_rel:.3g} of their scale{on}, more than rtol {rtol:g}"

    def _is_explained(self, kind: str, trial: Trial) -> bool:
        """Whether rounding explains the error: the first model's own is not much less on these inputs."""
        differences = trial.differences
        if kind in USUAL or differences.problem or differences.nan:
            return False
        if trial.floor is None and differences.required > self.tolerance.rtol:
            trial.floor = self.floor.error_on(trial.some)
        return trial.floor is not None and differences.max_rel <= BEYOND_ROUNDING * trial.floor

    @property
    def required_rtol(self) -> float:
        """The smallest rtol with which nothing would have been beyond what is allowed; NaN where there is none."""
        if self.usual.nan or any(trial.differences.problem for trial in self.by_kind.values()):
            return math.nan
        found = (
            trial.differences.required for kind, trial in self.by_kind.items() if not self._is_explained(kind, trial)
        )
        return max(found, default=0.0)

    def found(self) -> tuple[Tried, ...]:
        """What each kind showed."""
        return tuple(self._found(kind, trial) for kind, trial in self.by_kind.items())

    def _found(self, kind: str, trial: Trial) -> Tried:
        differences, explained = trial.differences, self._is_explained(kind, trial)
        figures = differences.max_abs, differences.max_rel, differences.required
        absolute, relative, required = (math.nan,) * 3 if differences.nan else figures
        return Tried(
            kind,
            trial.samples,
            differences.same_bits,
            not differences.nan,
            absolute,
            relative,
            required,
            trial.floor,
            explained and differences.required > self.tolerance.rtol,
        )


def _all_finite(outputs: Outputs) -> bool:
    return all(bool(torch.isfinite(leaf).all()) for leaf in outputs[0] if isinstance(leaf, Tensor))


def _keep_worst(trial: Trial, batch: Batch, outputs: Outputs) -> None:
    """Remember the sample that is furthest beyond what is allowed, which is relative to the sample's own outputs."""
    scores = _scores(outputs, sample_count(batch))
    highest, number = scores.max(0)
    if trial.worst is None or float(highest) > trial.worst[0]:
        trial.worst = float(highest), _sample(batch, int(number))


def _sample(batch: Batch, number: int) -> Batch:
    """A batch of one of a batch's samples."""
    return map_tensors(lambda tensor: tensor[number : number + 1].clone() if tensor.dim() else tensor, batch)


def _scores(outputs: Outputs, samples: int) -> Tensor:
    """(N,): the relative error of each sample, over all outputs; infinite where it cannot be told."""
    scores = torch.zeros(samples, dtype=torch.float64)
    if len(outputs[0]) != len(outputs[1]):
        return scores + math.inf
    for a, b in zip(*outputs, strict=True):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            continue
        if a.shape != b.shape or not a.dim() or len(a) != samples:
            return scores + math.inf
        left, right = a.double().reshape(samples, -1).cpu(), b.double().reshape(samples, -1).cpu()
        errors, scale = (left - right).abs().amax(1), left.abs().amax(1)
        shares = torch.where(errors == 0, 0.0, errors / scale)
        scores = torch.maximum(scores, torch.where(torch.isnan(shares), math.inf, shares))
    return scores
