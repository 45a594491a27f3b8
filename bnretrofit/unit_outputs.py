"""model with standardised norms + batches -> UnitOutputs: does every norm put out mean 0 and variance 1?"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bnretrofit.affine import affine_of, fixed_norm
from bnretrofit.batches import Batch, as_call, device_of, map_tensors, sample_count, taken
from bnretrofit.comparison import report_document
from bnretrofit.copies import share_copy
from bnretrofit.moments import ChannelStats, PassMoments
from bnretrofit.norms import ChannelsLastBatchNorm1d

__all__ = ["BOUND", "UnitOutputs", "check_unit_outputs"]

BOUND = 1e-2
"""Largest error of a mean or variance that passes. With a thousand samples, the statistics of a dense layer's channel
are themselves uncertain by 3 %; fifty layers that are not trained make 0.03 % of what one settled norm leaves."""

UNAFFECTED = 0.99
"""Channels that come out with at least this variance are taken for those on which eps does not decide."""


@dataclass(frozen=True, slots=True)
class UnitOutputs:
    """What the norms of a model put out over a calibration set.

    A norm divides by sqrt(var + eps), so a channel of variance v comes out with v / (v + eps): that is what is asked
    for. It is 1 but for channels that hardly vary, which are counted.

    Attributes:
        passed: The verdict: every mean and variance within `bound`, and all outputs finite.
        norms: How many norms were judged.
        channels: Their channels.
        samples: Samples that the model was run on.
        mean_error: Largest distance of a channel's mean from 0; NaN if one is not finite.
        variance_error: Largest distance of a channel's variance from what is asked for; NaN likewise.
        bound: The largest that passes, of both.
        decided_by_eps: Channels that are asked for a variance below 0.99, eps being no small part of theirs.
        smallest_variance: The smallest that is asked for; 1 if there is no norm.
        layer: The first norm that is not as it must be, in the order given; None if all are.
        reason: Why it failed; None if it passed.
        notes: What else there is to know.
    """

    passed: bool
    norms: int
    channels: int
    samples: int
    mean_error: float
    variance_error: float
    bound: float
    decided_by_eps: int
    smallest_variance: float
    layer: str | None
    reason: str | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON document; a figure that is not finite becomes its name as a string."""
        return {**report_document(self), "equality_claimed": False}

    def __str__(self) -> str:
        shares = f"{self.norms} norms ({self.channels} channels) on {self.samples} samples"
        lines = [
            f"{'PASSED' if self.passed else 'FAILED'}: mean 0 and variance 1 out of {shares}",
            "  equality    not claimed: outputs are meant to change",
            f"  error       mean {self.mean_error:.3g}, variance {self.variance_error:.3g}; bound {self.bound:g}",
        ]
        if self.reason is not None:
            lines += [f"  layer       {self.layer}"] if self.layer else []
            lines.append(f"  reason      {self.reason}")
        return "\n".join([*lines, *(f"  note        {note}" for note in self.notes)])


def check_unit_outputs(model: nn.Module, names: Iterable[str], batches: Iterable[Batch]) -> UnitOutputs:
    """Run a model and judge what its norms put out. The model runs in eval mode and is left as it is.

    Args:
        model: The model.
        names: The norms to judge, by module name.
        batches: The calibration set; gone through once.

    Returns:
        The report; it never raises because a norm is wrong.

    Raises:
        InputRejectedError: There is no batch.
    """
    copy = share_copy(model, buffers=False).eval()
    norms = {name: copy.get_submodule(name) for name in names}
    moments, samples, finite = PassMoments(), 0, True
    for name, norm in norms.items():
        norm.register_forward_pre_hook(partial(_stage, moments, name), with_kwargs=True)
    with torch.inference_mode():
        for batch in taken(batches, "check"):
            args, kwargs = as_call(map_tensors(lambda tensor: tensor.to(device_of(copy), copy=True), batch))
            finite &= _all_finite(copy(*args, **kwargs))
            moments.commit()
            samples += sample_count(batch)
    return _judged(norms, moments.stats(), samples, finite=finite)


def _stage(moments: PassMoments, name: str, norm: nn.Module, inputs: Any, named: Any) -> None:
    # What comes out follows from what goes in; some norms call an activation before they return.
    read: Tensor = [*inputs, *named.values()][0]
    moments.stage(name, read, -1 if isinstance(norm, ChannelsLastBatchNorm1d) else 1)


def _all_finite(outputs: Any) -> bool:
    return all(bool(leaf.isfinite().all()) for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))


@dataclass(frozen=True, slots=True)
class _Errors:
    """Of one norm: the largest error of a mean and of a variance, and the variances that are asked for, (C,)."""

    mean: float
    variance: float
    wanted: Tensor

    @property
    def largest(self) -> float:
        """The larger of the two; infinity where one is NaN."""
        return max(float("inf") if math.isnan(error) else error for error in (self.mean, self.variance))


def _errors(norm: nn.Module, read: ChannelStats) -> _Errors:
    affine, eps = affine_of(norm), fixed_norm(norm).eps
    scale, shift = affine.scale.cpu(), affine.shift.cpu()
    wanted = read.unbiased_var / (read.unbiased_var + eps)
    mean = (scale * read.mean + shift).abs().max()
    return _Errors(float(mean), float((scale.square() * read.unbiased_var - wanted).abs().max()), wanted)


def _judged(
    norms: Mapping[str, nn.Module], stats: Mapping[str, ChannelStats], samples: int, *, finite: bool
) -> UnitOutputs:
    errors = {name: _errors(norms[name], found) for name, found in stats.items()}
    wanted = torch.cat([found.wanted for found in errors.values()]) if errors else torch.ones(0)
    by_eps = int((wanted < UNAFFECTED).sum())
    smallest = float(wanted.min()) if len(wanted) else 1.0
    layer, reason = _problem(norms, errors, finite=finite)
    note = (
        f"eps decides on {by_eps} of {len(wanted)} channels, whose input hardly varies: they come out with a variance "
        f"below 1, down to {smallest:.2g}"
    )
    return UnitOutputs(
        passed=reason is None,
        norms=len(norms),
        channels=len(wanted),
        samples=samples,
        # torch's maximum is NaN if one is.
        mean_error=float(torch.tensor([0.0, *(found.mean for found in errors.values())]).max()),
        variance_error=float(torch.tensor([0.0, *(found.variance for found in errors.values())]).max()),
        bound=BOUND,
        decided_by_eps=by_eps,
        smallest_variance=smallest,
        layer=layer,
        reason=reason,
        notes=(note,) if by_eps else (),
    )


def _problem(
    norms: Mapping[str, nn.Module], errors: Mapping[str, _Errors], *, finite: bool
) -> tuple[str | None, str | None]:
    """The first norm that is wrong, of which those after it may be the consequence, and why; None and None."""
    for name in norms:
        if name not in errors:
            return name, "nothing passes through the norm"
        found = errors[name]
        if found.largest > BOUND:
            return name, f"a mean is off by {found.mean:.3g} or a variance by {found.variance:.3g}"
    return None, None if finite else "an output of the model is NaN or infinite"
