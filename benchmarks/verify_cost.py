"""What a verification costs beside the two forward passes that it cannot do without.

    python -m benchmarks.verify_cost

Both networks run once over 1,000 images in batches of 32 that are in memory already: plainly; under `verify`, with
all that it does by default (graphs, random and extreme inputs, rounding against float64); and under `verify` layer by
layer. The contenders take turns in every round. Networks: squeezenet1_1 at 224 px and vgg6_cifar10 at 32 px, from the
folder of real networks ($BNRETROFIT_ASSETS, or shared/assets beside the checkout), each against the same network
retrofitted, whose layers are equal, and against one whose layers all differ in the last digits, which costs more.

Wall clock and processor time; on one thread (OMP_NUM_THREADS=1) the latter is hardly disturbed by other work. Memory
is that of a process of its own: the peak above what was resident before.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import bnretrofit
from benchmarks.finetune_subjects import squeezenet, vgg6
from benchmarks.measuring import load, peak_memory, ratios, record, reset_peak, resident, rotated, table, timed
from bnretrofit.batches import split

NETWORKS: dict[str, tuple[Callable[[int], nn.Module], int]] = {"squeezenet1_1": (squeezenet, 224), "vgg6": (vgg6, 32)}
FORWARD, VERIFY, PER_LAYER = "two forward passes", "verify", "verify, per layer"
EQUAL, CLOSE = "equal", "close"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verify_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--images", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--peak", nargs=2, metavar=("WHAT", "AGAINST"), help="measure its memory alone, as JSON")
    options = parser.parse_args(arguments)
    if options.peak is not None:
        what, kind = options.peak
        print(json.dumps(peak_of(options.networks[0], what, kind, options.images)))
        return
    began = load()
    rows = [row for name in options.networks for kind in (EQUAL, CLOSE) for row in measured(name, kind, options)]
    header = ("network", "against", "what", "least", "median", "processor least", "processor median", "MiB")
    print(table(header, [[str(cell) for cell in row] for row in rows]))
    record("verify_cost", arguments, {"rows": [dict(zip(header, row, strict=True)) for row in rows], "load": began})


def measured(name: str, kind: str, options: argparse.Namespace) -> list[list[Any]]:
    works = contenders(name, kind, options.images)
    for work in works.values():
        work(2)
    wall: dict[str, list[float]] = {what: [] for what in works}
    processor: dict[str, list[float]] = {what: [] for what in works}
    for number in range(options.rounds):
        for what in rotated(list(works), number):
            began = time.process_time()
            wall[what].append(timed(lambda what=what: works[what](None)))  # type: ignore[misc]
            processor[what].append(time.process_time() - began)
    rows = []
    for what in works:
        found = [ratios(times[what], times[FORWARD]) for times in (wall, processor)]
        figures = [each[figure] for each in found for figure in ("min", "median")]
        rows.append([name, kind, what, *figures, round(memory(name, what, kind) / 2**20)])
    return rows


def contenders(name: str, kind: str, images: int) -> dict[str, Callable[[int | None], object]]:
    """Each takes how many batches, None for all."""
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    a = make(0).eval()
    batches = split(torch.randn(images, 3, size, size), 32)
    b = bnretrofit.retrofit(a, [batches[0]]).eval()
    if kind == CLOSE:
        with torch.no_grad():
            for parameter in b.parameters():
                parameter.mul_(1 + 1e-7)

    def forward(count: int | None) -> None:
        with torch.inference_mode():
            for batch in batches[:count]:
                a(batch)
                b(batch)

    return {
        FORWARD: forward,
        VERIFY: lambda count: bnretrofit.verify(a, b, batches[:count]),
        PER_LAYER: lambda count: bnretrofit.verify(a, b, batches[:count], per_layer=True),
    }


def memory(name: str, what: str, kind: str) -> int:
    command = [sys.executable, "-m", "benchmarks.verify_cost", "--networks", name, "--peak", what, kind]
    done = subprocess.run([*command, "--images", "128"], capture_output=True, text=True, check=True, env=os.environ)
    return int(json.loads(done.stdout.splitlines()[-1]))


def peak_of(name: str, what: str, kind: str, images: int) -> int:
    work = contenders(name, kind, images)[what]
    work(1)
    before = resident() or 0
    reset_peak()
    work(None)
    return (peak_memory() or 0) - before


if __name__ == "__main__":
    main(sys.argv[1:])
