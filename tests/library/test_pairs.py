"""Arithmetic on pairs of float64, held against exact fractions."""

from fractions import Fraction

import torch
from torch import Tensor

from bnretrofit import pairs


def exact(pair: tuple[Tensor, Tensor], index: int = 0) -> Fraction:
    return Fraction(float(pair[0].flatten()[index])) + Fraction(float(pair[1].flatten()[index]))


def wide(count: int) -> Tensor:
    """Numbers of both signs over 24 decades."""
    return torch.randn(count).double() * 10.0 ** torch.randint(-12, 12, (count,)).double()


def pair_of(count: int) -> tuple[Tensor, Tensor]:
    return pairs.two_sum(wide(count), wide(count) * 2.0**-60)


def test_a_sum_of_two_loses_nothing() -> None:
    a, b = wide(200), wide(200)
    found = pairs.two_sum(a, b)
    assert all(exact(found, i) == Fraction(float(a[i])) + Fraction(float(b[i])) for i in range(200))
    assert bool((found[1] != 0).any())


def test_a_product_of_two_loses_nothing() -> None:
    a, b = wide(200), wide(200)
    found = pairs.two_product(a, b)
    assert all(exact(found, i) == Fraction(float(a[i])) * Fraction(float(b[i])) for i in range(200))
    assert bool((found[1] != 0).any())


def test_sums_of_pairs_are_right_to_a_hundred_bits() -> None:
    a, b = pair_of(200), pair_of(200)
    found = pairs.add(a, b)
    for i in range(200):
        wanted = exact(a, i) + exact(b, i)
        scale = max(abs(exact(a, i)), abs(exact(b, i)))
        assert abs(exact(found, i) - wanted) <= scale * Fraction(2) ** -100


def test_products_of_pairs_are_right_to_a_hundred_bits() -> None:
    a, b = pair_of(200), pair_of(200)
    found = pairs.product(a, b)
    for i in range(200):
        wanted = exact(a, i) * exact(b, i)
        assert abs(exact(found, i) - wanted) <= abs(wanted) * Fraction(2) ** -100


def test_a_total_keeps_what_float64_would_lose() -> None:
    for count in (1, 2, 3, 7, 64, 65):
        terms = torch.randn(count, 3).double()
        terms = torch.cat([terms, torch.full((1, 3), 1e20).double(), torch.full((1, 3), -1e20).double()])
        high, low = pairs.total((terms, torch.zeros_like(terms)))
        for channel in range(3):
            wanted = sum((Fraction(float(value)) for value in terms[:, channel]), Fraction(0))
            assert abs(Fraction(float(high[channel])) + Fraction(float(low[channel])) - wanted) < Fraction(1, 10**9)
        # The tolerance tells the two apart: plain float64 has lost it all.
        assert bool((terms.sum(0) - high).abs().max() > 1e-3)


def test_the_sign_of_both_halves_is_turned() -> None:
    high, low = pairs.negated((torch.tensor([1.0]), torch.tensor([-2.0])))
    assert (high.item(), low.item()) == (-1.0, 2.0)
