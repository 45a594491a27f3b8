"""Folding the networks that break folding tools: right, wrong, refused or raised, by each tool that is installed.

    python -m benchmarks.fold_peers

Small seeded networks with drawn norms, in eval mode, each folded by torch.nn.utils.fusion, torch.fx's fuse, AIMET,
onnxruntime, onnxsim and bnretrofit.fold. An error is the largest difference of an output, over the largest output, from
the unfolded network in float64; the unfolded network in float32 has one, too. Exits 1 if bnretrofit is wrong.

onnxruntime and onnxsim fold an exported ONNX graph, in which calls, hooks and computed weights are spelled out, and
give a graph back; the others fold modules. A graph is run without further optimisations.
"""

import argparse
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import bnretrofit
from benchmarks.fold_exported import fold_by_onnxruntime, fold_by_onnxsim
from benchmarks.fold_fuses import fold_by_aimet, fuse_pairs, fuse_traced
from benchmarks.fold_networks import CASES, Case
from benchmarks.measuring import record, table
from benchmarks.onnx_graphs import OnnxGraph
from benchmarks.peers import NotInstalledError, versions
from bnretrofit.errors import InputRejectedError

__all__ = ["OURS", "TOOLS", "Outcome", "outcome_of"]

WRONG = 1e-4
"""Errors above it are no rounding: those of these networks in float32 are below 1e-6."""

OURS = "bnretrofit.fold"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one network under one tool.

    Attributes:
        case: The network.
        tool: The tool.
        verdict: "raised", "wrong", "refused" (right, with norms left), "exact" (right, with none left) or
            "not installed".
        error: Of the result; None if there is none, or its outputs are not finite or of another shape.
        unfolded: Error of the unfolded network in float32.
        norms: Before.
        left: After.
        said: The exception, or what the tool says about the norms it leaves.
    """

    case: str
    tool: str
    verdict: str
    error: float | None
    unfolded: float
    norms: int
    left: int
    said: str = ""

    @property
    def sound(self) -> bool:
        """Whether the result is as good as the unfolded network, or the tool refused to make one."""
        return self.verdict != "raised" and self.error is not None and self.error <= 4 * self.unfolded + 1e-7


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fold_peers", description=__doc__.splitlines()[0])
    parser.parse_args(arguments)
    # What fold leaves is in the outcomes; it need not be logged besides.
    logging.getLogger("bnretrofit").setLevel(logging.ERROR)
    outcomes = [outcome_of(case, tool) for case in CASES for tool in TOOLS]
    show(outcomes)
    record("fold_peers", arguments, {"peers": versions(), "outcomes": [asdict(outcome) for outcome in outcomes]})
    unsound = [outcome.case for outcome in outcomes if outcome.tool == OURS and not outcome.sound]
    if unsound:
        sys.exit(f"{OURS} is wrong on: {'; '.join(unsound)}")


def fold_ours(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, str]:
    plan = bnretrofit.make_fold_plan(model, inputs)
    said = "; ".join(f"'{leave.name}': {leave.reason}" for leave in plan.leaves)
    return bnretrofit.fold(model, inputs), said


TOOLS: dict[str, Callable[[nn.Module, Tensor], tuple[nn.Module, str]]] = {
    "torch.nn.utils.fusion": lambda model, _: (fuse_pairs(model), ""),
    "torch.fx fuse": lambda model, _: (fuse_traced(model), ""),
    "AIMET": lambda model, inputs: (fold_by_aimet(model, inputs), ""),
    "onnxruntime": lambda model, inputs: (fold_by_onnxruntime(model, inputs), ""),
    "onnxsim": lambda model, inputs: (fold_by_onnxsim(model, inputs), ""),
    OURS: fold_ours,
}


def outcome_of(case: Case, tool: str) -> Outcome:
    """Let one tool fold one network."""
    model, inputs = case.network(), case.inputs()
    with torch.no_grad():
        reference = case.network().double()(inputs.double())
        # This also runs the model once, as its user will have done: old weight_norm cannot be copied before.
        unfolded = largest_error(model(inputs), reference)
    norms = norms_of(model)
    try:
        result, said = TOOLS[tool](model, inputs)
        with torch.no_grad():
            output = result(inputs)
    except NotInstalledError as missing:
        return Outcome(case.name, tool, "not installed", None, unfolded, norms, norms, first_line(missing))
    except InputRejectedError as refusal:
        return Outcome(case.name, tool, "refused", unfolded, unfolded, norms, norms, first_line(refusal))
    except Exception as failure:  # noqa: BLE001 - whatever a tool raises is what is asked for
        return Outcome(case.name, tool, "raised", None, unfolded, norms, norms, first_line(failure))
    error, left = largest_error(output, reference), norms_of(result)
    known = error if math.isfinite(error) else None
    return Outcome(case.name, tool, verdict_of(error, left), known, unfolded, norms, left, said)


def largest_error(output: Tensor, reference: Tensor) -> float:
    """Over the largest output; infinite where an output is not finite, or of another shape."""
    if output.shape != reference.shape or not bool(output.isfinite().all()):
        return math.inf
    error = (output.double() - reference).abs().max() / reference.abs().max()
    return float(f"{float(error):.3g}")


def verdict_of(error: float, left: int) -> str:
    if error > WRONG:
        return "wrong"
    return "refused" if left else "exact"


def norms_of(model: nn.Module) -> int:
    if isinstance(model, OnnxGraph):
        return model.norms
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


def first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def show(outcomes: Sequence[Outcome]) -> None:
    by_case = {case.name: [outcome for outcome in outcomes if outcome.case == case.name] for case in CASES}
    rows = [(name, f"{found[0].unfolded:.1e}", *map(cell, found)) for name, found in by_case.items()]
    print(table(("error of outputs", "unfolded, float32", *TOOLS), rows))
    print()
    for tool in TOOLS:
        verdicts = Counter(outcome.verdict for outcome in outcomes if outcome.tool == tool)
        print(f"{tool}: {', '.join(f'{count} {verdict}' for verdict, count in sorted(verdicts.items()))}")
    print("\nWhat they say:")
    for outcome in outcomes:
        if outcome.said or outcome.verdict == "refused":
            said = outcome.said or f"nothing; {outcome.left} of {outcome.norms} norms left"
            print(f"  {outcome.case}: {outcome.tool}: {said}")


def cell(outcome: Outcome) -> str:
    return outcome.verdict if outcome.error is None else f"{outcome.verdict} {outcome.error:.1e}"


if __name__ == "__main__":
    main(sys.argv[1:])
