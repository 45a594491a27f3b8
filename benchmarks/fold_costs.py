"""What folding ordinary networks costs: each tool's seconds, memory and error, on the same networks in one run.

    python -m benchmarks.fold_costs

torchvision's vgg16_bn and resnet50, seeded, with drawn norms, folded in memory for two images of 224 px. Each tool has
a process of its own, in which it has folded a small network before. Errors are as in fold_peers; seconds are of wall
clock and of the processor, the quickest of the rounds, each with a fresh network and a plain forward pass of the two
images before it; memory is the peak of the first fold above what was held. onnxruntime and onnxsim begin with an
export, which has a row of its own.
"""

import argparse
import gc
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import bnretrofit
from benchmarks.fold_networks import CASES, network_with_norms
from benchmarks.fold_peers import OURS, TOOLS, first_line, largest_error, norms_of
from benchmarks.insert_contenders import run
from benchmarks.measuring import both_clocks, load, peak_memory, ratios, record, reset_peak, resident, table
from benchmarks.onnx_graphs import OnnxGraph, export
from benchmarks.peers import NotInstalledError, versions
from benchmarks.step_cost import ROOT

__all__ = ["HEAD", "NETWORKS", "measured", "row"]

NETWORKS = ("vgg16_bn", "resnet50")
EXPORT = "export to ONNX alone"


def export_alone(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, str]:
    return OnnxGraph(export(model, inputs)), ""


def fold_alone(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, str]:
    """Ours without the plan that says what is left."""
    return bnretrofit.fold(model, inputs), ""


CONTENDERS = {**TOOLS, OURS: fold_alone, EXPORT: export_alone}
WARM_UP = next(case for case in CASES if case.name == "conv, affine=False")
HEAD = ("tool", "norms left", "error", "seconds", "processor", "÷ forward", "peak MiB")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fold_costs", description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="of torchvision; default: %(default)s")
    parser.add_argument("--tools", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        (network,), (tool,) = options.networks, options.tools
        print(
            json.dumps(
                measured(partial(network_with_norms, network), torch.randn(2, 3, 224, 224), tool, options.rounds)
            )
        )
        return
    began, found = load(), {}
    for network in options.networks:
        found[network] = {tool: in_process(network, tool, options.rounds) for tool in options.tools}
        rows = [row(tool, figures) for tool, figures in found[network].items()]
        print("", table((network, *HEAD[1:]), rows), sep="\n", flush=True)
    record(
        "fold_costs",
        arguments,
        {"peers": versions(), "load_before": began, "load_after": load(), "networks": found},
    )
    wrong = [network for network, each in found.items() if OURS in each and not each[OURS].get("sound")]
    if wrong:
        sys.exit(f"{OURS} is wrong on: {', '.join(wrong)}")


def in_process(network: str, tool: str, rounds: int) -> dict[str, Any]:
    """What one tool does with one network, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.fold_costs", "--networks", network, "--tools", tool]
    command += ["--rounds", str(rounds), "--child"]
    finished = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    if finished.returncode:
        return {"said": f"ended its process with {finished.returncode}"}
    figures: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return figures


def measured(network: Callable[[], nn.Module], inputs: Tensor, tool: str, rounds: int) -> dict[str, Any]:
    """All figures of one tool, as JSON has them; or why there are none, under "said"."""
    logging.getLogger("bnretrofit").setLevel(logging.ERROR)
    try:
        return figures(network, inputs, tool, rounds)
    except NotInstalledError as missing:
        return {"said": f"not installed ({missing})"}
    except Exception as failure:  # noqa: BLE001 - whatever a tool raises is what is asked for
        return {"said": f"raised {first_line(failure)}"}


def figures(network: Callable[[], nn.Module], inputs: Tensor, tool: str, rounds: int) -> dict[str, Any]:
    fold = CONTENDERS[tool]
    # What it imports, and what its kernels allocate; a tool that cannot fold this may fold the other.
    with suppress(Exception):
        fold(WARM_UP.network(), WARM_UP.inputs())
    # Before anything large was allocated and freed, which would hide in what the process holds.
    model = network()
    gc.collect()
    held = resident()
    reset_peak()
    folded, _ = fold(model, inputs)
    most = peak_memory()
    peak = None if most is None or held is None else round((most - held) / 2**20)
    times, forward = [], []
    for _ in range(rounds):
        model = network()
        forward.append(both_clocks(partial(run, model, [inputs])))
        times.append(both_clocks(partial(fold, model, inputs)))
    with torch.no_grad():
        reference = network().double()(inputs.double())
        unfolded = largest_error(network()(inputs), reference)
        error = largest_error(folded(inputs), reference)
    return {
        "error": error,
        "unfolded": unfolded,
        "sound": error <= 4 * unfolded + 1e-7,
        "norms": norms_of(network()),
        "left": norms_of(folded),
        "forward_seconds": forward,
        "seconds": times,
        "peak_mib": peak,
    }


def row(tool: str, figures: dict[str, Any]) -> tuple[object, ...]:
    """Of a table."""
    if "said" in figures:
        return (tool, figures["said"].partition(" (")[0], *[""] * (len(HEAD) - 2))
    wall, processor = (min(each[clock] for each in figures["seconds"]) for clock in (0, 1))
    over = ratios(*([each[1] for each in figures[what]] for what in ("seconds", "forward_seconds")))
    return (
        tool,
        f"{figures['left']} of {figures['norms']}",
        f"{figures['error']:.1e}",
        f"{wall:.2f}",
        f"{processor:.2f}",
        f"{over['min']:.1f} ({over['median']:.1f})",
        "" if figures["peak_mib"] is None else figures["peak_mib"],
    )


if __name__ == "__main__":
    main(sys.argv[1:])
