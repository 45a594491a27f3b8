"""Two models and batches -> Report: are they the same function?"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bnretrofit.batches import Batch, as_call, device_of, dtype_of, map_tensors, sample_count, taken
from bnretrofit.capture import capture
from bnretrofit.comparison import Report, tolerance_for
from bnretrofit.copies import share_copy
from bnretrofit.errors import InputRejectedError
from bnretrofit.proof import GraphComparison, compare_graphs, prove

__all__ = ["Accuracy", "verify", "verify_labelled"]

RANDOM_SAMPLES = 4
RANDOM_SEED = 20150211


@dataclass(slots=True)
class Accuracy:
    """Top-1 hits of two models on labelled samples, counted while they are compared.

    Attributes:
        labels_for: The samples' labels for a classifier of so many outputs, in order; None if they are not known.
    """

    labels_for: Callable[[int], Sequence[int] | None]
    hits: list[int] = field(default_factory=lambda: [0, 0])
    seen: int = 0

    def add(self, outputs: tuple[Tensor, Tensor]) -> None:
        """Count a batch: outputs (N, K), for the next N labels."""
        labels = self.labels_for(outputs[0].shape[1])
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
class _Differences:
    """What the comparison of outputs has gathered."""

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
        self.bit_identical &= a.dtype == b.dtype and torch.equal(a, b)
        if not a.dtype.is_floating_point:
            if not torch.equal(a, b):
                self.problem = "outputs of whole numbers differ"
            return
        left, right = (
            a.detach().double().flatten(1 if a.dim() > 1 else 0),
            b.to(a.device).double().flatten(1 if b.dim() > 1 else 0),
        )
        left, right = left.reshape(len(a) if a.dim() else 1, -1), right.reshape(len(a) if a.dim() else 1, -1)
        if not (torch.isfinite(left).all() and torch.isfinite(right).all()):
            self.nan = True
            return
        if not left.numel():
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

    def rank(self, a: Tensor, b: Tensor) -> None:
        """Count the samples on which two (N, K) outputs have the same largest entry."""
        if a.shape == b.shape:
            self.agreed += int((a.argmax(1) == b.to(a.device).argmax(1)).sum())
            self.ranked += len(a)


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
    return verify_labelled(a, b, batches, rtol=rtol, atol=atol, accuracy=None)


def verify_labelled(
    a: nn.Module,
    b: nn.Module,
    batches: Iterable[Batch],
    *,
    rtol: float | None,
    atol: float | None,
    accuracy: Accuracy | None,
) -> Report:
    """`verify`, counting top-1 hits on the way where labels are known."""
    tolerance = tolerance_for(dtype_of(a))
    rtol, atol = tolerance.rtol if rtol is None else rtol, tolerance.atol if atol is None else atol
    models = share_copy(a).eval(), share_copy(b).eval()
    iterator = iter(taken(batches, "verify"))
    first = next(iterator)
    proof, comparison, notes = _compare_graphs(a, b, first)
    differences, samples = _Differences(atol), 0
    for batch in chain([first], iterator):
        outputs = _outputs(models, batch)
        _add(differences, outputs)
        samples += sample_count(batch)
        if accuracy is not None and (pair := _ranked(outputs)) is not None:
            accuracy.add(pair)
    agreement = differences.agreed / differences.ranked if differences.ranked else None
    random = _random_like(first)
    if random is None:
        notes.append("no random inputs were tried: the model's inputs are not all floating-point tensors")
    else:
        _add(differences, _outputs(models, random))
    reason = _reason(differences, comparison, rtol, tolerance.tensor)
    shown = proof if proof.same_operators else comparison
    return Report(
        passed=reason is None,
        proved=proof.same_tensors,
        bit_identical=differences.bit_identical and differences.problem is None and not differences.nan,
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


def _compare_graphs(a: nn.Module, b: nn.Module, example: Batch) -> tuple[GraphComparison, GraphComparison, list[str]]:
    unknown = GraphComparison(same_operators=False, same_tensors=False)
    try:
        graphs = capture(a, example), capture(b, example)
    except InputRejectedError as error:
        return unknown, unknown, [f"the graphs could not be compared: {error}"]
    proof = prove(*graphs)
    return proof, proof if proof.same_tensors else compare_graphs(*graphs), []


def _reason(differences: _Differences, comparison: GraphComparison, rtol: float, tensor_tolerance: float) -> str | None:
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


def _outputs(models: tuple[nn.Module, nn.Module], batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
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
        results.append([leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)])
    return results[0], results[1]


def _ranked(outputs: tuple[list[Tensor], list[Tensor]]) -> tuple[Tensor, Tensor] | None:
    if not outputs[0] or not outputs[1]:
        return None
    a, b = outputs[0][0], outputs[1][0]
    return (a, b) if a.dim() == 2 and a.shape == b.shape and a.shape[1] > 1 else None


def _add(differences: _Differences, outputs: tuple[list[Tensor], list[Tensor]]) -> None:
    if len(outputs[0]) != len(outputs[1]):
        differences.problem = f"the models return {len(outputs[0])} and {len(outputs[1])} tensors"
        return
    for a, b in zip(*outputs, strict=True):
        differences.add(a, b)
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
