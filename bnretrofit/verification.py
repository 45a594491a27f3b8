"""Two models and batches -> Report: are they the same function?"""

from collections.abc import Iterable
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bnretrofit.batches import Batch, as_call, device_of, dtype_of, map_tensors, sample_count, taken
from bnretrofit.capture import Graph, capture
from bnretrofit.comparison import Report, tolerance_for
from bnretrofit.copies import share_copy
from bnretrofit.differences import Accuracy, Differences
from bnretrofit.errors import InputRejectedError
from bnretrofit.proof import GraphComparison, compare_graphs, prove, unprovable

__all__ = ["verify", "verify_labelled"]

RANDOM_SAMPLES = 4
RANDOM_SEED = 20150211


def verify(
    a: nn.Module, b: nn.Module, batches: Iterable[Batch], *, rtol: float | None = None, atol: float | None = None
) -> Report:
    """Compare two models: by their captured graphs, on the given batches, and on random inputs.

    Both run in eval mode; neither is changed.

    Args:
        a: The reference.
        b: The model to judge.
        batches: What both are run on, at least one batch.
        rtol: Allowed output error relative to the largest output magnitude of the same sample; None takes
            `comparison.TOLERANCES` for the models' dtype.
        atol: Allowed output error in the output's unit; None likewise.

    Returns:
        The report; it never raises because the models differ.

    Raises:
        InputRejectedError: There is no batch, or a model does not take it.
    """
    return verify_labelled(a, b, batches, rtol=rtol, atol=atol)


def verify_labelled(
    a: nn.Module,
    b: nn.Module,
    batches: Iterable[Batch],
    *,
    rtol: float | None = None,
    atol: float | None = None,
    accuracy: Accuracy | None = None,
    graphs: tuple[Graph, Graph] | None = None,
    example: Batch | None = None,
) -> Report:
    """`verify`, for callers who have more, or less, than models and batches.

    Args:
        a: The reference.
        b: The model to judge.
        batches: What both are run on.
        rtol: See `verify`.
        atol: See `verify`.
        accuracy: Counts top-1 hits on the way.
        graphs: Both models' graphs, if they are at hand.
        example: A batch by whose shape random inputs are made; with one, `batches` may be empty.
    """
    tolerance = tolerance_for(dtype_of(a))
    rtol, atol = tolerance.rtol if rtol is None else rtol, tolerance.atol if atol is None else atol
    models = share_copy(a, buffers=False).eval(), share_copy(b, buffers=False).eval()
    iterator = iter(batches) if example is not None else taken(batches, "verify")
    first = [] if example is not None else [next(iterator)]
    model_input = example if example is not None else first[0]
    proof, comparison, notes = _compare_graphs(a, b, model_input, graphs)
    differences, samples = Differences(atol), 0
    for batch in chain(first, iterator):
        outputs = _outputs(models, batch)
        _add(differences, outputs)
        samples += sample_count(batch)
        if accuracy is not None and (pair := _ranked(outputs)) is not None:
            accuracy.add(pair)
    agreement = differences.agreed / differences.ranked if differences.ranked else None
    random = _random_like(model_input)
    if random is None:
        notes.append("no random inputs were tried: the model's inputs are not all floating-point tensors")
    else:
        _add(differences, _outputs(models, random))
    reason = _reason(differences, comparison, rtol, tolerance.tensor)
    shown = proof if proof.same_operators else comparison
    bit_identical = differences.bit_identical and differences.problem is None and not differences.nan
    return Report(
        passed=reason is None,
        # A graph is captured at one batch size: a model that branches on it may differ at another, and then shows here.
        proved=proof.same_tensors and bit_identical,
        bit_identical=bit_identical,
        max_abs_error=float("nan") if differences.nan else differences.max_abs,
        mean_abs_error=float("nan") if differences.nan else differences.total / max(differences.elements, 1),
        p99_abs_error=float(torch.cat(differences.sample_errors).quantile(0.99))
        if differences.sample_errors
        else float("nan"),
        max_rel_error=float("nan") if differences.nan else differences.max_rel,
        required_rtol=float("nan") if differences.nan or differences.problem else differences.required,
        rtol=rtol,
        atol=atol,
        top1_agreement=agreement,
        samples=samples,
        random_samples=0 if random is None else sample_count(random),
        difference=None if proof.same_tensors else shown.difference,
        layer=None if proof.same_tensors else shown.layer,
        tensor_error=comparison.tensor_error if comparison.same_operators else None,
        reason=reason,
        notes=tuple(notes),
    )


def _compare_graphs(
    a: nn.Module, b: nn.Module, example: Batch, graphs: tuple[Graph, Graph] | None
) -> tuple[GraphComparison, GraphComparison, list[str]]:
    unknown = GraphComparison(same_operators=False, same_tensors=False)
    try:
        graphs = graphs or (capture(a, example), capture(b, example))
    except InputRejectedError as error:
        return unknown, unknown, [f"the graphs could not be compared: {error}"]
    proof, obstacle = prove(*graphs), unprovable(*graphs)
    notes = [f"equality cannot be proved: {obstacle}"] if obstacle else []
    return proof, proof if proof.same_tensors else compare_graphs(*graphs), notes


def _reason(differences: Differences, comparison: GraphComparison, rtol: float, tensor_tolerance: float) -> str | None:
    if differences.nan:
        return "an output is NaN or infinite"
    if differences.problem is not None:
        return differences.problem
    # A wrong weight may move the outputs by less than rounding does, so the tensors are judged as well.
    if comparison.same_operators and not comparison.tensor_error <= tensor_tolerance:
        return f"{comparison.difference}, more than {tensor_tolerance:g}"
    if differences.required > rtol:
        return f"the outputs differ by {differences.max_rel:.3g} of their scale, more than rtol {rtol:g}"
    return None


def _outputs(models: tuple[nn.Module, nn.Module], batch: Batch) -> tuple[list[Any], list[Any]]:
    results = []
    for model in models:
        # A fresh copy of the inputs: a model may overwrite what it is given.
        args, kwargs = as_call(map_tensors(partial(torch.Tensor.to, device=device_of(model), copy=True), batch))
        try:
            with torch.inference_mode():
                output = model(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise InputRejectedError(
                f"the {type(model).__name__} does not take the batch",
                why=str(error).strip().splitlines()[0] if str(error) else None,
                remedy="pass batches as the model takes them, without labels",
            ) from error
        results.append(tree_leaves(output))
    return results[0], results[1]


def _ranked(outputs: tuple[list[Any], list[Any]]) -> tuple[Tensor, Tensor] | None:
    if not outputs[0] or not outputs[1]:
        return None
    a, b = outputs[0][0], outputs[1][0]
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return None
    return (a, b) if a.dim() == 2 and a.shape == b.shape and a.shape[1] > 1 else None


def _add(differences: Differences, outputs: tuple[list[Any], list[Any]]) -> None:
    if not any(isinstance(leaf, Tensor) for leaf in outputs[0]):
        differences.problem = "the models return no tensor that could be compared"
        return
    if len(outputs[0]) != len(outputs[1]):
        differences.problem = f"the models return {len(outputs[0])} and {len(outputs[1])} values"
        return
    for a, b in zip(*outputs, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            differences.add(a, b)
        elif type(a) is not type(b) or a != b:
            differences.problem = f"one returns a {type(a).__name__} where the other returns another value"
    if (pair := _ranked(outputs)) is not None:
        differences.rank(*pair)


def _random_like(batch: Batch) -> Batch | None:
    """Standard normal inputs of the batch's shapes; None where an input is not a floating-point tensor."""
    generator = torch.Generator().manual_seed(RANDOM_SEED)
    whole = True

    def drawn(tensor: Tensor) -> Tensor:
        nonlocal whole
        whole &= tensor.dtype.is_floating_point
        shape = (min(len(tensor), RANDOM_SAMPLES), *tensor.shape[1:]) if tensor.dim() else ()
        return torch.randn(shape, generator=generator).to(tensor.dtype) if whole else tensor

    random = map_tensors(drawn, batch)
    return random if whole else None
