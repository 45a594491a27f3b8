"""Two models and batches -> Report: are they the same function?"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import nn

from bnretrofit.batches import Batch, dtype_of, sample_count, taken
from bnretrofit.capture import Graph
from bnretrofit.comparison import Report, tolerance_between
from bnretrofit.copies import share_copy
from bnretrofit.differences import Accuracy
from bnretrofit.findings import BatchDrift, LayerError
from bnretrofit.proof import GraphComparison
from bnretrofit.trials.alignment import align
from bnretrofit.trials.drift import DRIFT_SIZES, drift_by_batch_size
from bnretrofit.trials.graphs import GraphsCompared
from bnretrofit.trials.inputs import is_floating, random_like
from bnretrofit.trials.layers import LayerErrors
from bnretrofit.trials.pairing import paired_points
from bnretrofit.trials.running import Models, inputs_for, outputs_of, ranked
from bnretrofit.trials.training_settings import training_difference
from bnretrofit.trials.trying import USUAL, Trials

__all__ = ["NO_MORE", "Checks", "verify", "verify_labelled"]


@dataclass(frozen=True, slots=True)
class Checks:
    """What a verification is to do besides comparing graphs and outputs.

    Attributes:
        rtol: See `verify`.
        atol: See `verify`.
        floor: Measure what rounding does to the reference itself, which takes a copy of it in float64. Without, that
            is measured only where an extreme input is beyond the tolerance.
        per_layer: Compare at each layer.
        adversarial_steps: Of gradient ascent on the difference; 0 for none.
        training: Look at training mode too: what batch statistics do to the second model's outputs, and whether norms
            that both models have would train alike.
        worst: Gathers for each kind of input the sample with the largest error; None to keep none.
    """

    rtol: float | None = None
    atol: float | None = None
    floor: bool = False
    per_layer: bool = False
    adversarial_steps: int = 0
    training: bool = False
    worst: dict[str, Batch] | None = None


NO_MORE = Checks()


def verify(
    a: nn.Module,
    b: nn.Module,
    batches: Iterable[Batch],
    *,
    rtol: float | None = None,
    atol: float | None = None,
    per_layer: bool = False,
    adversarial_steps: int = 0,
    training: bool = False,
) -> Report:
    """Compare two models: by their captured graphs, on the given batches, and on random and extreme inputs.

    Both run in eval mode; neither is changed.

    Args:
        a: The reference.
        b: The model to judge.
        batches: What both are run on, at least one batch.
        rtol: Allowed output error relative to the largest output magnitude of the same sample; None takes
            `comparison.TOLERANCES` for the models' dtype, the coarser one's if they have two.
        atol: Allowed output error in the output's unit; None likewise.
        per_layer: Compare what each layer gives, too.
        adversarial_steps: Search the worst input by so many steps of gradient ascent on the difference.
        training: Measure how far batch statistics move the second model's outputs, by batch size, and look whether
            norms that both models have would train alike.

    Returns:
        The report; it never raises because the models differ.

    Raises:
        InputRejectedError: There is no batch, or a model does not take it.
    """
    checks = Checks(rtol, atol, floor=True, per_layer=per_layer, adversarial_steps=adversarial_steps, training=training)
    return verify_labelled(a, b, batches, checks)


def verify_labelled(
    a: nn.Module,
    b: nn.Module,
    batches: Iterable[Batch],
    checks: Checks = NO_MORE,
    *,
    accuracy: Accuracy | None = None,
    graphs: tuple[Graph, Graph] | None = None,
    example: Batch | None = None,
) -> Report:
    """`verify`, for callers who have more, or less, than models and batches.

    Args:
        a: The reference.
        b: The model to judge.
        batches: What both are run on.
        checks: What to do besides.
        accuracy: Counts top-1 hits on the way.
        graphs: Both models' graphs, if they are at hand.
        example: A batch by whose shape other inputs are made; with one, `batches` may be empty.
    """
    models = share_copy(a, buffers=False).eval(), share_copy(b, buffers=False).eval()
    align(models)
    tolerance = tolerance_between(dtype_of(a), dtype_of(b), checks.rtol, checks.atol)
    trials = Trials(models, tolerance, keep_worst=checks.worst is not None)
    iterator = iter(batches) if example is not None else taken(batches, "verify")
    first = [] if example is not None else [next(iterator)]
    model_input = example if example is not None else first[0]
    compared = GraphsCompared.of(a, b, model_input, graphs)
    kept: list[Batch] = []
    with _layers(compared, models) if checks.per_layer else nullcontext() as layers:
        for batch in chain(first, iterator):
            outputs = outputs_of(models, batch) if layers is None else layers.run(batch)
            trials.add("given", batch, outputs)
            if accuracy is not None and (pair := ranked(outputs)) is not None:
                accuracy.add(pair)
            if checks.training and sum(map(sample_count, kept)) < max(DRIFT_SIZES):
                kept.append(inputs_for(models, batch)[1])
        some = inputs_for(models, model_input)[0]
        if layers is not None and not layers.largest and is_floating(model_input):
            some = random_like(some)
            layers.run(some)
    trials.try_others(model_input, checks.adversarial_steps)
    if checks.floor:
        trials.measure_floors()
    if checks.worst is not None:
        checks.worst.update(trials.worst)
    found = None if layers is None else layers.found(trials.floor, some, tolerance.rtol)
    report = _report(compared, trials, found, drift_by_batch_size(models[1], kept) if kept else ())
    return _judged_in_training(report, models) if checks.training else report


def _judged_in_training(report: Report, models: Models) -> Report:
    differing = training_difference(*models)
    if differing is None or not report.passed:
        return report
    what, layer = differing
    return replace(report, passed=False, proved=False, reason=what, difference=what, layer=layer)


def _layers(compared: GraphsCompared, models: Models) -> AbstractContextManager[LayerErrors | None]:
    return nullcontext() if compared.graphs is None else LayerErrors(models, paired_points(*compared.graphs))


def _report(
    compared: GraphsCompared, trials: Trials, layers: tuple[LayerError, ...] | None, drift: tuple[BatchDrift, ...]
) -> Report:
    usual, tried, tolerance = trials.usual, trials.found(), trials.tolerance
    shown = compared.shown(tolerance.tensor)
    bit_identical = all(kind.bit_identical for kind in tried if kind.finite or kind.kind in USUAL)
    reason, nan = _reason(compared, trials), float("nan")
    floors = [kind.floor for kind in tried if kind.kind in USUAL and kind.floor is not None]
    samples = {kind.kind: kind.samples for kind in tried}
    # A graph is captured at one batch size: a model that branches on it may differ at another, and then shows here.
    proved = compared.proof.same_tensors and bit_identical
    return Report(
        passed=reason is None,
        proved=proved,
        bit_identical=bit_identical,
        max_abs_error=nan if usual.nan else usual.max_abs,
        mean_abs_error=nan if usual.nan else usual.total / max(usual.elements, 1),
        p99_abs_error=float(torch.cat(usual.sample_errors).quantile(0.99)) if usual.sample_errors else nan,
        max_rel_error=nan if usual.nan else usual.max_rel,
        required_rtol=trials.required_rtol,
        rtol=tolerance.rtol,
        atol=tolerance.atol,
        top1_agreement=trials.agreement,
        samples=samples.get("given", 0),
        random_samples=samples.get("random", 0),
        difference=None if compared.proof.same_tensors else shown.difference,
        layer=None if compared.proof.same_tensors else _layer(shown, layers),
        tensor_error=compared.absorbed.tensor_error if compared.absorbed.same_operators else None,
        reason=reason,
        notes=(*compared.notes, *trials.notes),
        floor=max(floors, default=None),
        tried=tried,
        layers=layers,
        drift=drift,
    )


def _reason(compared: GraphsCompared, trials: Trials) -> str | None:
    """Why the models are not the same function, as a sentence; None if nothing shows that they are not."""
    reasons = trials.reasons()
    usual, tensor = trials.usual, compared.absorbed.told(trials.tolerance.tensor)
    first = next((reasons[kind] for kind in USUAL if kind in reasons), None)
    if usual.nan or usual.problem is not None:
        return first
    # A wrong weight may move the outputs by less than rounding does, so the tensors are judged as well.
    if tensor.same_operators and not tensor.tensor_error <= trials.tolerance.tensor:
        return f"{tensor.difference}, more than {trials.tolerance.tensor:g}"
    return first or next(iter(reasons.values()), None)


def _layer(shown: GraphComparison, layers: tuple[LayerError, ...] | None) -> str | None:
    """The layer to name: by its tensors or by the graph, else by what it gives."""
    first = next((layer.layer for layer in layers or () if layer.diverges), None)
    return first if shown.layer is None else shown.layer
