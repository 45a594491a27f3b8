"""How far batch statistics move a model's outputs from what running statistics give."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bnretrofit.batches import Batch, as_call, device_of, map_tensors, sample_count
from bnretrofit.findings import BatchDrift
from bnretrofit.norms import running_norms

__all__ = ["DRIFT_SIZES", "drift_by_batch_size", "drift_of"]

DRIFT_SIZES = (2, 8, 32, 256)


def drift_by_batch_size(model: nn.Module, batches: Sequence[Batch]) -> tuple[BatchDrift, ...]:
    """The drift at several batch sizes, as many as there are samples for, all over the same samples.

    Args:
        model: Any; it is left as it was.
        batches: Of one kind of input, at most `max(DRIFT_SIZES)` samples of which are used.
    """
    # Images that keep their own sizes make batches of several shapes: those like the first.
    alike = [batch for batch in batches if _shapes(batch) == _shapes(batches[0])]
    joined = tree_map(lambda *parts: _joined(parts), alike[0], *alike[1:])
    joined = map_tensors(lambda tensor: tensor[: max(DRIFT_SIZES)].to(device_of(model)), joined)
    samples = sample_count(joined)
    found = (_drift(model, _groups(joined, size, samples), size) for size in DRIFT_SIZES if size <= samples)
    return tuple(drift for drift in found if drift is not None)


def drift_of(model: nn.Module, images: Tensor) -> BatchDrift | None:
    """The drift of one batch; None for a batch of one or a model without norms that track statistics."""
    return _drift(model, [images], len(images)) if len(images) > 1 else None


@torch.no_grad()
def _drift(model: nn.Module, groups: list[Batch], size: int) -> BatchDrift | None:
    """Run batches both ways, and leave the model as it was."""
    norms = running_norms(model)
    if not norms:
        return None
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    moved, whole = 0.0, 0.0
    try:
        for batch in groups:
            plain, drifted = _both_ways(model, list(norms.values()), batch)
            # Each group starts from the running statistics as they are, not as the last one has moved them.
            _restore(model, buffers)
            moved += float((drifted - plain).square().sum())
            whole += float(plain.square().sum())
    finally:
        for module, training in modes.items():
            module.training = training
        _restore(model, buffers)
    relative = (moved / max(whole, torch.finfo(torch.float64).tiny)) ** 0.5
    return BatchDrift(size, relative, size * len(groups))


def _both_ways(model: nn.Module, norms: list[nn.Module], batch: Batch) -> tuple[Tensor, Tensor]:
    args, kwargs = as_call(batch)
    # Dropout stays off: the drift is the norms'.
    model.eval()
    plain = _logits(model(*args, **kwargs))
    for norm in norms:
        norm.training = True
    return plain, _logits(model(*args, **kwargs))


def _restore(model: nn.Module, buffers: dict[str, Tensor]) -> None:
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])


def _shapes(batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape[1:]) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]


def _joined(parts: Sequence[Any]) -> Any:
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) and parts[0].dim() else parts[0]


def _groups(batch: Batch, size: int, samples: int) -> list[Batch]:
    def rows(start: int) -> Batch:
        return map_tensors(lambda tensor: tensor[start : start + size] if tensor.dim() else tensor, batch)

    return [rows(start) for start in range(0, samples - size + 1, size)]


def _logits(output: Any) -> Tensor:
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    # Of several results, the first: a mapping's values, not its keys.
    return (found if isinstance(found, Tensor) else next(filter(torch.is_tensor, tree_leaves(output)))).double()
