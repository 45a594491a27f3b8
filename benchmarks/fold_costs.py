"""What folding ordinary networks costs: each tool's seconds, memory and error, on the same networks in one run.

    python -m benchmarks.fold_costs

torchvision's vgg16_bn and resnet50, seeded, with drawn norms, folded in memory for images of 224 px. Each tool has a
process of its own, in which it has folded a small network before. Errors are as in fold_peers; seconds are of wall
clock and of the processor, the quickest of the rounds, each with a fresh network; memory is the peak of the first round
above what was held before. onnxruntime and onnxsim begin with an export, which has a row of its own.
"""

import argparse
import gc
import json
import logging
import subprocess
import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fold_networks import CASES, vgg
from benchmarks.fold_peers import OURS, TOOLS, first_line, largest_error, norms_of
from benchmarks.insert_measuring import both_clocks
from benchmarks.measuring import load, peak_memory, record, reset_peak, resident, table
from benchmarks.onnx_graphs import OnnxGraph, export
from benchmarks.peers import NotInstalledError, versions
from benchmarks.step_cost import ROOT

__all__ = ["HEAD", "NETWORKS", "measured", "row"]

NETWORKS = ("vgg16_bn", "resnet50")
EXPORT = "export to ONNX alone"


def export_alone(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, str]:
    return OnnxGraph(export(model, inputs)), ""


CONTENDERS = {**TOOLS, EXPORT: export_alone}
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
        print(json.dumps(measured(partial(vgg, network), torch.randn(2, 3, 224, 224), tool, options.rounds)))
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
    finished = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return figures


def measured(network: partial[nn.Module], inputs: Tensor, tool: str, rounds: int) -> dict[str, Any]:
    """All figures of one tool, as JSON has them; or why there are none, under "said"."""
    logging.getLogger("bnretrofit").setLevel(logging.ERROR)
    try:
        return figures(network, inputs, tool, rounds)
    except NotInstalledError as missing:
        return {"said": f"not installed ({missing})"}
    except Exception as failure:  # noqa: BLE001 - whatever a tool raises is what is asked for
        return {"said": f"raised {first_line(failure)}"}


def figures(network: partial[nn.Module], inputs: Tensor, tool: str, rounds: int) -> dict[str, Any]:
    small = CASES[0]
    CONTENDERS[tool](small.network(), small.inputs())
    with torch.no_grad():
        reference = network().double()(inputs.double())
        model = network()
        unfolded = largest_error(model(inputs), reference)
        forward = [both_clocks(partial(model, inputs)) for _ in range(rounds)]
    folded: list[nn.Module] = []
    times, peak = [], None
    for number in range(rounds):
        folded.clear()
        model = network()
        gc.collect()
        held = resident()
        reset_peak()
        times.append(both_clocks(lambda: folded.append(CONTENDERS[tool](model, inputs)[0])))  # noqa: B023 - called here
        most = peak_memory()
        if number == 0 and most is not None and held is not None:
            peak = round((most - held) / 2**20)
    with torch.no_grad():
        error = largest_error(folded[0](inputs), reference)
    return {
        "error": error,
        "unfolded": unfolded,
        "sound": error <= 4 * unfolded + 1e-7,
        "norms": norms_of(network()),
        "left": norms_of(folded[0]),
        "forward_seconds": forward,
        "seconds": times,
        "peak_mib": peak,
    }


def row(tool: str, figures: dict[str, Any]) -> tuple[object, ...]:
    """Of a table."""
    if "said" in figures:
        return (tool, figures["said"].partition(" (")[0], *[""] * (len(HEAD) - 2))
    wall, processor = (min(each[clock] for each in figures["seconds"]) for clock in (0, 1))
    over = processor / min(each[1] for each in figures["forward_seconds"])
    return (
        tool,
        f"{figures['left']} of {figures['norms']}",
        f"{figures['error']:.1e}",
        f"{wall:.2f}",
        f"{processor:.2f}",
        f"{over:.1f}",
        figures["peak_mib"],
    )


if __name__ == "__main__":
    main(sys.argv[1:])
