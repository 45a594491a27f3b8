"""A layer and the maps before and after it -> its new weights, in float64 and rounded once.

A layer y = W x + b followed by scale * y + shift is the layer  (scale W) x + (scale b + shift), and one that reads
scale * x + shift is the layer  (W scale) x + (b + W shift).
"""

import torch
from torch import Tensor

from bnretrofit.affine import Affine

__all__ = [
    "absorb",
    "absorbed_bias",
    "absorbed_weight",
    "channel_factor",
    "row_blocks",
    "shifted_bias",
    "weight_factors",
]

BLOCK_ELEMENTS = 1 << 15
"""Elements of a weight held in float64 at a time: 256 kB, which stay in the cache. Kernels over no more than that run
in the calling thread alone; waiting for the others takes milliseconds while something else keeps them busy."""


def absorb(
    weight: Tensor,
    bias: Tensor | None,
    after: Affine | None,
    before: Affine | None = None,
    *,
    transposed: bool,
    groups: int,
) -> tuple[Tensor, Tensor | None]:
    """Weights of the layer with a map before it, after it or both: computed in float64, rounded once to their dtype.

    Channels on which a map is the exact identity keep their bits.

    Args:
        weight: (C_out, C_in / groups, *kernel), or (C_in, C_out / groups, *kernel) when transposed, or (C_out, C_in).
        bias: (C_out,), or None.
        after: The map applied to the layer's output.
        before: The map applied to its input; without a shift where the layer is transposed or pads.
        transposed: Whether the weight is laid out as a transposed convolution's.
        groups: The convolution's groups; 1 for a dense layer.

    Returns:
        New weight and bias; the bias is None only if it was None and every shift is zero.
    """
    weight = weight.detach()
    new_weight = absorbed_weight(weight, after, before, transposed=transposed, groups=groups)
    moved = None if before is None or transposed else shifted_bias(weight, bias, before.shift, groups=groups)
    if after is None:
        new_bias = bias.detach() if moved is None and bias is not None else moved
    elif bias is None and moved is None and not bool(after.shift.count_nonzero()):
        new_bias = None
    else:
        new_bias = absorbed_bias(bias if moved is None else moved, after)
    dtype = weight.dtype if bias is None else bias.dtype
    return new_weight, None if new_bias is None else new_bias.to(dtype)


def absorbed_bias(bias: Tensor | None, affine: Affine) -> Tensor:
    """The bias of the layer followed by the map: (C,), float64."""
    old_bias = torch.zeros_like(affine.shift) if bias is None else bias.detach().double()
    untouched = (affine.scale == 1) & (affine.shift == 0)
    # Adding a zero would turn a bias of -0.0 into 0.0.
    return torch.where(untouched, old_bias, torch.addcmul(affine.shift, old_bias, affine.scale))


def shifted_bias(weight: Tensor, bias: Tensor | None, shift: Tensor, *, groups: int) -> Tensor | None:
    """The bias of the layer whose input is shifted: (C_out,), float64; None if no channel is.

    Args:
        weight: Of a layer that is not transposed and does not pad.
        bias: (C_out,), or None.
        shift: (C_in,), float64.
        groups: The convolution's groups.
    """
    if not bool(shift.count_nonzero()):
        return None
    shifts = input_factor(weight, shift.to(weight.device), transposed=False, groups=groups)
    parts = [(block * amount).flatten(1).sum(1) for block, amount in zip(*row_blocks(weight, shifts), strict=True)]
    total = torch.cat(parts)
    return total if bias is None else total + bias.detach().double()


def absorbed_weight(
    weight: Tensor, after: Affine | None, before: Affine | None = None, *, transposed: bool, groups: int
) -> Tensor:
    """The weight of the layer with the maps, in the weight's own shape and dtype (see `absorb`)."""
    factors = weight_factors(weight, after, before, transposed=transposed, groups=groups)
    result = torch.empty_like(weight)
    for part, source, *scales in zip(*row_blocks(result, weight, *factors), strict=True):
        # A product with a float64 tensor is float64.
        for scale in scales:
            source = source * scale  # noqa: PLW2901 - the product so far
        part.copy_(source)
    return result


def weight_factors(
    weight: Tensor, after: Affine | None, before: Affine | None, *, transposed: bool, groups: int
) -> tuple[Tensor, ...]:
    """What a weight is to be multiplied with, each as long as it along the first dimension (see `absorb`)."""
    found = []
    if after is not None:
        found.append(channel_factor(weight, after.scale.to(weight.device), transposed=transposed, groups=groups))
    if before is not None:
        found.append(input_factor(weight, before.scale.to(weight.device), transposed=transposed, groups=groups))
    return tuple(found)


def channel_factor(weight: Tensor, scale: Tensor, *, transposed: bool, groups: int) -> Tensor:
    """A factor per output channel, shaped so that `weight * factor` scales the layer's output channels.

    Args:
        weight: See `absorb`.
        scale: (C_out,).
        transposed: See `absorb`.
        groups: See `absorb`.

    Returns:
        (C_out, 1, ...), or (C_in, C_out / groups, 1, ...) when transposed.
    """
    if not transposed:
        return scale.view(-1, *[1] * (weight.dim() - 1))
    # Transposed layout: input channels first, and output channel g * (C_out / groups) + j stands at [group g, :, j].
    rows = scale.view(groups, weight.shape[1]).repeat_interleave(weight.shape[0] // groups, 0)
    return rows.view(*rows.shape, *[1] * (weight.dim() - 2))


def input_factor(weight: Tensor, scale: Tensor, *, transposed: bool, groups: int) -> Tensor:
    """A factor per input channel, shaped so that `weight * factor` scales what the layer reads.

    Args:
        weight: See `absorb`.
        scale: (C_in,).
        transposed: See `absorb`.
        groups: See `absorb`.

    Returns:
        (C_in, 1, ...) when transposed, otherwise (C_out, C_in / groups, 1, ...), expanded without memory if it can be.
    """
    ones = [1] * (weight.dim() - 2)
    if transposed:
        return scale.view(-1, 1, *ones)
    rows = scale.view(groups, 1, weight.shape[1]).expand(-1, weight.shape[0] // groups, -1)
    return rows.reshape(weight.shape[0], weight.shape[1], *ones)


def row_blocks(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Several tensors of equal first size, each split into blocks of rows, as long as suits the first of them."""
    rows = max(1, BLOCK_ELEMENTS // max(1, tensors[0][:1].numel()))
    return [tensor.split(rows) for tensor in tensors]
