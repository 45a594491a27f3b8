"""What norms cost in a training step: batch statistics and frozen ones against the network without norms.

    python -m benchmarks.step_cost

A step is forward, cross entropy, backward, and SGD with momentum, in training mode, on random images. Networks: a
torchvision VGG of random weights at 64 px, and `vgg6_cifar10` at 32 px, six convolutions and two dense layers, from the
folder of real networks ($BNRETROFIT_ASSETS, or shared/assets beside the checkout).

Memory: of a process of its own, the peak over two steps above what was resident before them, and the network's tensors:
weights, gradients, momentum, activations and scratch memory, all together.

Wall clock tells little beside other work: the processor time of a single thread (OMP_NUM_THREADS=1) tells more.
"""

import argparse
import gc
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import bnretrofit
from benchmarks.measuring import load, peak_memory, ratios, record, reset_peak, resident, rotated, table, timed
from bnretrofit.copies import share_copy
from bnretrofit.norms import is_batch_norm
from bnretrofit.training.frozen_statistics import frozen_statistics

PLAIN = "plain"
BATCH = "retrofitted, batch statistics"
FROZEN = "retrofitted, frozen statistics"
NAIVE = "retrofitted, norms in eval mode"
STOCK = "stock with norms"
SIZES = {"vgg16": 64, "vgg6_cifar10": 32}
ROOT = Path(__file__).resolve().parents[1]
SHORTEST = 0.5
"""Seconds that a timing takes at least."""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(SIZES), choices=list(SIZES), help="default: %(default)s")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[8, 32, 128], help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--peak", metavar="CONTENDER", help="measure this one's memory alone, and print it as JSON")
    options = parser.parse_args(arguments)
    if options.peak is not None:
        print(json.dumps(peak_of(options.models[0], options.peak, options.batch_sizes[0])))
        return
    began, found = load(), []
    for model in options.models:
        for batch_size in options.batch_sizes:
            found.append(measured(model, batch_size, options.rounds))
            show(found[-1])
    chosen = {"rounds": options.rounds, "load_before": began, "load_after": load()}
    record("step_cost", arguments, {**chosen, "steps": found})


def contenders(model: str) -> list[str]:
    return [PLAIN, BATCH, FROZEN, NAIVE, *([STOCK] if model == "vgg16" else [])]


def measured(model: str, batch_size: int, rounds: int) -> dict[str, Any]:
    names = contenders(model)
    peaks = {name: peak_in_process(model, name, batch_size) for name in names}
    with steps(model, names, batch_size) as found:
        wall, cpu = race(found, rounds)
    result = {
        name: {
            "seconds": [round(value, 4) for value in wall[name]],
            "cpu_seconds": [round(value, 4) for value in cpu[name]],
            "over_plain": ratios(wall[name], wall[PLAIN]),
            "cpu_over_plain": ratios(cpu[name], cpu[PLAIN]),
            "cpu_over_stock": ratios(cpu[name], cpu[STOCK]) if STOCK in names else None,
            "peak_mib": round(peaks[name] / 2**20),
            "peak_over_plain": round(peaks[name] / peaks[PLAIN], 3),
        }
        for name in names
    }
    return {"model": model, "batch_size": batch_size, "contenders": result}


def race(found: Mapping[str, Callable[[], None]], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds a step of each contender in each round: by the clock, and of processor time."""
    for work in found.values():
        work()
    repeats = max(1, round(SHORTEST / timed(found[PLAIN])))
    wall: dict[str, list[float]] = {name: [] for name in found}
    cpu: dict[str, list[float]] = {name: [] for name in found}
    for number in range(rounds):
        for name in rotated(list(found), number):
            began = time.process_time()
            wall[name].append(timed(partial(repeated, found[name], repeats)) / repeats)
            cpu[name].append((time.process_time() - began) / repeats)
    return wall, cpu


def repeated(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


@contextmanager
def steps(model: str, names: list[str], batch_size: int) -> Iterator[dict[str, partial[None]]]:
    """A training step of each contender. Those of the retrofitted network share its tensors and their momentum."""
    torch.manual_seed(0)
    images = torch.randn(batch_size, 3, SIZES[model], SIZES[model])
    networks: dict[str, nn.Module] = {}
    with ExitStack() as stack:
        if PLAIN in names:
            networks[PLAIN] = plain(model).train()
        if STOCK in names:
            networks[STOCK] = stock(model).train()
        shared = [name for name in names if name not in networks]
        if shared:
            result = retrofitted(model).train()
            networks |= {name: share_copy(result) for name in shared}
        if NAIVE in names:
            for norm in filter(is_batch_norm, networks[NAIVE].modules()):
                norm.eval()
        if FROZEN in names:
            leaves = stack.enter_context(frozen_statistics(networks[FROZEN], images)).leaves
            assert not leaves, leaves
        optimisers = {id(next(network.parameters())): optimiser(network) for network in networks.values()}
        yield {
            name: partial(step, network, optimisers[id(next(network.parameters()))], images)
            for name, network in networks.items()
        }


def optimiser(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=1e-5, momentum=0.9)


def step(network: nn.Module, optimiser: torch.optim.Optimizer, images: Tensor) -> None:
    optimiser.zero_grad()
    functional.cross_entropy(network(images), torch.arange(len(images)) % 10).backward()
    optimiser.step()


def plain(model: str) -> nn.Module:
    if model == "vgg16":
        from torchvision import models

        network: nn.Module = models.vgg16()
        return network
    return asset_network(model)


def stock(model: str) -> nn.Module:
    from torchvision import models

    network: nn.Module = models.get_model(f"{model}_bn")
    return network


def asset_network(name: str) -> nn.Module:
    folder = Path(os.environ.get("BNRETROFIT_ASSETS", ROOT.parent / "shared" / "assets"))
    spec = importlib.util.spec_from_file_location("nets", folder / "nets.py")
    if spec is None or spec.loader is None or not (folder / "nets.py").exists():
        sys.exit(f"{name} is in {folder}/nets.py, which is not there: set BNRETROFIT_ASSETS, or take --models vgg16")
    nets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nets)
    network: nn.Module = nets.FACTORIES[name]()
    return network


def retrofitted(model: str) -> nn.Module:
    return with_norms(plain(model), torch.zeros(1, 3, SIZES[model], SIZES[model]))


def with_norms(network: nn.Module, example: Tensor) -> nn.Module:
    """With identities; statistics do not change what a step costs."""
    plan = bnretrofit.make_plan(network, example)
    ones = {site.name: torch.ones(site.channels, dtype=torch.float64) for site in plan.sites}
    stats = {name: bnretrofit.ChannelStats(2, torch.zeros_like(var), var) for name, var in ones.items()}
    return bnretrofit.insert(network, plan, stats)


def peak_in_process(model: str, name: str, batch_size: int) -> int:
    """Bytes that training takes in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.step_cost", "--models", model]
    command += ["--batch-sizes", str(batch_size), "--peak", name]
    # What is freed goes back to the system at once, so that the peak is that of the tensors.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    run = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return int(json.loads(run.stdout))


def peak_of(model: str, name: str, batch_size: int) -> int:
    warm_up()
    with steps(model, [name], batch_size) as found:
        gc.collect()
        held = resident()
        reset_peak()
        repeated(found[name], 2)
        peak = peak_memory()
        network: nn.Module = found[name].args[0]
    if peak is None or held is None:
        sys.exit("this system does not tell a process's peak memory")
    return peak - held + sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def warm_up() -> None:
    """Import what training and capturing import."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))
    images = torch.randn(2, 3, 8, 8)
    result = with_norms(network, images).train()
    with frozen_statistics(result, images):
        step(result, optimiser(result), images)


def show(found: dict[str, Any]) -> None:
    rows = []
    for name, row in found["contenders"].items():
        stock_ratio = (row["cpu_over_stock"] or {}).get("median", "")
        over = (*row["over_plain"].values(), *row["cpu_over_plain"].values(), stock_ratio)
        rows.append((name, f"{min(row['cpu_seconds']) * 1000:.1f}", *over, row["peak_mib"], row["peak_over_plain"]))
    columns = (
        "cpu ms",
        "wall ÷ plain: min",
        "median",
        "cpu ÷ plain: min",
        "median",
        "cpu ÷ stock",
        "peak MiB",
        "÷ plain",
    )
    print("", table((f"{found['model']}, batch {found['batch_size']}", *columns), rows), sep="\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
