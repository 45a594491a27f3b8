"""A study: which runs it makes, and what follows from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bnretrofit.studies.findings import Finding, Plot
from bnretrofit.studies.networks import USUAL, Shape
from bnretrofit.studies.recipes import Budget, Recipe
from bnretrofit.studies.results import Results

__all__ = ["AT_THE_BETTER", "FEW_RATES", "RATES", "Study", "grid"]

RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FEW_RATES = (0.003, 0.03)
"""Each network is judged by the better one of these, where the rate is not what is asked about: of `RATES` the best on
the digits, one without norms, and one with norms."""

AT_THE_BETTER = "at the better of two learning rates, {:g} and {:g}; no others were tried".format(*FEW_RATES)
"""What a method says of it."""


def _as_usual(budget: Budget) -> Budget:
    return budget


@dataclass(frozen=True, slots=True)
class Study:
    """A claim, and how it is tried.

    Attributes:
        name: Short.
        claim: What is said of norms, as it follows "norms".
        method: What is measured, and when the claim holds, in sentences.
        recipes: Budget and seeds -> its runs; none where it measures something else than runs.
        find: What follows from them.
        lasting: How long its runs last, of what is usual.
        uses: "runs": images, seeds and steps are those that are asked for; "images": only the images are; "nothing": it
            has a network and images of its own.
    """

    name: str
    claim: str
    method: str
    recipes: Callable[[Budget, Sequence[int]], list[Recipe]]
    find: Callable[["Study", Results], Finding]
    lasting: Callable[[Budget], Budget] = _as_usual
    uses: str = "runs"

    def found(
        self, answer: str, header: Sequence[str], rows: Sequence[Sequence[str]], *plots: Plot, held: bool
    ) -> Finding:
        """Say what was found."""
        return Finding(self.name, self.claim, held, answer, tuple(header), tuple(tuple(row) for row in rows), plots)


def grid(
    budget: Budget, seeds: Sequence[int], rates: Sequence[float], shapes: Sequence[Shape] = (USUAL,)
) -> list[Recipe]:
    """Every shape at every rate, with norms and without, for every seed; seeds in the outer loop."""
    return [
        Recipe(budget, norms, rate, seed, shape)
        for seed in seeds
        for shape in shapes
        for norms in (False, True)
        for rate in rates
    ]
