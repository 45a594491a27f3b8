"""Arithmetic on unevaluated pairs of float64 tensors: twice the precision, with the hardware's own operations.

Two-sum: Knuth, The Art of Computer Programming 2, 4.2.2. Two-product and pairs: Dekker 1971,
https://doi.org/10.1007/BF01397083.
"""

import torch
from torch import Tensor

__all__ = ["Pair", "add", "negated", "product", "total", "two_product", "two_sum"]

Pair = tuple[Tensor, Tensor]
"""A value and the rounding error it leaves: high + low."""


def two_sum(a: Tensor, b: Tensor) -> Pair:
    """The sum a + b, exactly."""
    result = a + b
    part = result - a
    return result, (a - (result - part)) + (b - part)


def _split(a: Tensor) -> Pair:
    shifted = a * 134217729.0  # 2^27 + 1 cuts 53 bits into 26 and 26
    high = shifted - (shifted - a)
    return high, a - high


def two_product(a: Tensor, b: Tensor) -> Pair:
    """The product a * b, exactly unless it overflows."""
    result = a * b
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    return result, ((a_high * b_high - result) + a_high * b_low + a_low * b_high) + a_low * b_low


def add(a: Pair, b: Pair) -> Pair:
    """The sum of two pairs."""
    high, error = two_sum(a[0], b[0])
    low, low_error = two_sum(a[1], b[1])
    high, error = two_sum(high, error + low)
    return two_sum(high, error + low_error)


def product(a: Pair, b: Pair) -> Pair:
    """The product of two pairs."""
    high, error = two_product(a[0], b[0])
    return two_sum(high, error + (a[0] * b[1] + a[1] * b[0]))


def total(terms: Pair) -> Pair:
    """The sum over the first dimension of a pair of (terms, C) tensors."""
    # Halving keeps it to log2(samples) steps, each over all channels at once.
    high, low = terms
    while len(high) > 1:
        half = len(high) // 2
        joined = add((high[:half], low[:half]), (high[half : 2 * half], low[half : 2 * half]))
        high, low = (torch.cat([part, whole[2 * half :]]) for part, whole in zip(joined, (high, low), strict=True))
    return high[0], low[0]


def negated(pair: Pair) -> Pair:
    """The same value with its sign turned."""
    return -pair[0], -pair[1]
