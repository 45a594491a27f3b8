"""A network, retrofitted and folded, as ONNX files in onnxruntime: errors beside rounding, and what a run costs.

    python -m benchmarks.onnx_cost

squeezenet1_1 with its trained weights and torchvision's vgg16 (as its library initialises it: no trained weights are
at hand) on images of imagenette, from the folder of real networks ($BNRETROFIT_ASSETS, or shared/assets beside the
checkout). Two kinds of norms: *identity*, as `retrofit` leaves them, where every file is to be the original's equal;
and *moved*, their weights and biases drawn as training might leave them, where the folded file is to be the equal of
the network with norms. Errors are relative to the largest output of a sample, over all images; *rounding* is what
float32 does to the torch network itself, against float64. Times are of one image at a time; the files take turns, and
each round's times are divided by the original's of that round. When it loads a file, onnxruntime itself folds norms
behind convolutions, in float32; `retrofitted, as it is` has all its optimisations turned off.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

import bnretrofit
from benchmarks.finetune_subjects import IMAGENET, SUBJECTS, squeezenet_trained, unpacked
from benchmarks.measuring import load, ratios, record, rotated, table, timed
from bnretrofit.data import ImageBatches, find_images
from bnretrofit.exporting.onnx_files import OnnxModel, onnx_program, operators_in
from bnretrofit.norms import running_norms


def vgg16() -> nn.Module:
    network: nn.Module = models.vgg16(weights=None)
    return network.eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {"squeezenet1_1": squeezenet_trained, "vgg16": vgg16}
ORIGINAL, RETROFITTED, PLAIN, FOLDED, MOVED = (
    "original",
    "retrofitted",
    "retrofitted, as it is",
    "folded",
    "moved, folded",
)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--count", type=int, default=200, help="images; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--timed", type=int, default=40, help="images of a round; default: %(default)s")
    parser.add_argument("--images", type=Path, help="the images, unpacked")
    options = parser.parse_args(arguments)
    began = load()
    header = ("network", "file", "norms in it", "equal", "error", "rounding", "least", "median")
    with unpacked(SUBJECTS["squeezenet1_1"], options.images) as folder:
        files = find_images(folder / "val").sampled(options.count, 0)
        batches = list(ImageBatches(files, IMAGENET, 8))
        rows = [row for name in options.networks for row in measured(name, batches, options)]
    print(table(header, [[str(cell) for cell in row] for row in rows]))
    # Where the images were unpacked says nothing to anybody else.
    told = [each for each in arguments if each not in ("--images", str(options.images))]
    record("onnx_cost", told, {"rows": [dict(zip(header, row, strict=True)) for row in rows], "load": began})


def measured(name: str, batches: list[Tensor], options: argparse.Namespace) -> list[list[Any]]:
    torch.manual_seed(0)
    original = NETWORKS[name]()
    retrofitted = bnretrofit.retrofit(original, batches[:4])
    example = batches[0][:1]
    moved = with_moved_norms(retrofitted)
    networks = {
        ORIGINAL: (original, original),
        RETROFITTED: (original, retrofitted),
        FOLDED: (original, bnretrofit.fold(retrofitted, example)),
        MOVED: (moved, bnretrofit.fold(moved, example)),
    }
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {what: Path(folder) / f"{number}.onnx" for number, what in enumerate(networks)}
        for what, (reference, network) in networks.items():
            onnx_program(network, example, None)(paths[what])
            report = bnretrofit.verify(reference, OnnxModel(paths[what]), batches)
            norms = operators_in(paths[what])["BatchNormalization"]
            floor = f"{report.floor:.2g}" if report.floor is not None else "?"
            rows.append([name, what, norms, report.bit_identical, f"{report.max_rel_error:.2g}", floor])
        times = latencies({**paths, PLAIN: paths[RETROFITTED]}, torch.cat(batches)[: options.timed], options.rounds)
    rows.insert(2, [name, PLAIN, rows[1][2], "", "", ""])
    for row in rows:
        found = ratios(times[row[1]], times[ORIGINAL])
        row += [found["min"], found["median"]]
    return rows


def with_moved_norms(network: nn.Module) -> nn.Module:
    """A copy whose norms' weights are off by up to a fifth, and their biases by up to a fifth of a deviation."""
    import copy

    moved = copy.deepcopy(network)
    with torch.no_grad():
        for norm in running_norms(moved).values():
            weight, bias, variance = (
                norm.get_parameter("weight"),
                norm.get_parameter("bias"),
                norm.get_buffer("running_var"),
            )
            weight.mul_(1 + 0.2 * (2 * torch.rand_like(weight) - 1))
            bias.add_(0.2 * (2 * torch.rand_like(bias) - 1) * variance.sqrt())
    return moved


def latencies(paths: dict[str, Path], images: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds that each file takes for all images, one by one, in each round."""
    import onnxruntime

    sessions = {}
    for what, path in paths.items():
        given = onnxruntime.SessionOptions()
        given.intra_op_num_threads = torch.get_num_threads()
        if what == PLAIN:
            given.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        sessions[what] = onnxruntime.InferenceSession(str(path), given, providers=["CPUExecutionProvider"])
    inputs = [image.unsqueeze(0).numpy() for image in images]

    def run(what: str) -> None:
        for each in inputs:
            sessions[what].run(None, {"input": each})

    for what in sessions:
        run(what)
    times: dict[str, list[float]] = {what: [] for what in sessions}
    for number in range(rounds):
        for what in rotated(list(sessions), number):
            times[what].append(timed(lambda what=what: run(what)))  # type: ignore[misc]
    return times


if __name__ == "__main__":
    main(sys.argv[1:])
