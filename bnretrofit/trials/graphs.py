"""Two models -> their captured graphs, compared as strictly as can be."""

import math
from dataclasses import dataclass, replace

from torch import nn

from bnretrofit.batches import Batch, dtype_of
from bnretrofit.capture import Graph, capture
from bnretrofit.errors import InputRejectedError
from bnretrofit.proof import GraphComparison, compare_graphs, prove, unprovable
from bnretrofit.trials.running import inputs_for

__all__ = ["GraphsCompared"]

WHY_NOT = "why_not_captured"
"""An attribute of what has no graph: says why, as a sentence."""


@dataclass(frozen=True, slots=True)
class GraphsCompared:
    """What two models' graphs say.

    Attributes:
        graphs: Both; None where one could not be captured.
        proof: With identity norms dropped, and nothing else.
        absorbed: With every norm absorbed that can be.
        notes: What could not be compared.
    """

    graphs: tuple[Graph, Graph] | None
    proof: GraphComparison
    absorbed: GraphComparison
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(a: nn.Module, b: nn.Module, example: Batch, graphs: tuple[Graph, Graph] | None) -> "GraphsCompared":
        """Capture and compare; what cannot be captured is noted, and nothing is proved of it."""
        unknown = GraphComparison(same_operators=False, same_tensors=False)
        if (obstacle := getattr(a, WHY_NOT, None) or getattr(b, WHY_NOT, None)) is not None:
            return GraphsCompared(None, unknown, unknown, (f"the graphs could not be compared: {obstacle}",))
        try:
            examples = (example, example) if dtype_of(a) == dtype_of(b) else inputs_for((a, b), example)
            graphs = graphs or (capture(a, examples[0]), capture(b, examples[1]))
        except InputRejectedError as error:
            return GraphsCompared(None, unknown, unknown, (f"the graphs could not be compared: {error}",))
        proof, obstacle = prove(*graphs), unprovable(*graphs)
        notes = (f"equality cannot be proved: {obstacle}",) if obstacle else ()
        return GraphsCompared(graphs, proof, proof if proof.same_tensors else compare_graphs(*graphs), notes)

    def shown(self, tolerance: float) -> GraphComparison:
        """What is to be told, with the first tensor that differs by more than this.

        Of plain tensors, where the graphs have the same operators; of effective ones, where those differ by less.
        """
        base = self.proof if self.proof.same_operators else self.absorbed
        # Another layout or dtype is no difference of values, which the effective tensors tell.
        values = [error for error in self.proof.errors if error.error != math.inf]
        first = next((error for error in (*values, *self.absorbed.errors) if not error.error <= tolerance), None)
        return base if first is None else replace(base, difference=str(first), layer=first.layer)
