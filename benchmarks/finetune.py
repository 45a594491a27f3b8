"""What norms bring in fine-tuning: the network without them and the retrofitted one, at the same budget.

    python -m benchmarks.finetune rates --epochs 1 --seeds 3
    python -m benchmarks.finetune batches

`rates`: every learning rate of a grid, plain and retrofitted, with as many seeds; a rate trains if its accuracy is
within a point of the plain network's best. `batches`: batch statistics against frozen ones, by batch size, over as many
images; the smallest batch at which batch statistics win is where `--bn-stats auto` begins to use them.

The network is `vgg6_cifar10`, trained without norms, and the images CIFAR-10 as JPEGs, from the folder of real networks
($BNRETROFIT_ASSETS, or shared/assets beside the checkout; --images takes the unpacked images). A run that is in the
results file already is not made again. All runs use `bnretrofit finetune`'s own loop and augmentation.
"""

import argparse
import json
import os
import statistics
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import bnretrofit
from benchmarks.measuring import RESULTS, load, record, table
from benchmarks.step_cost import ROOT, asset_network
from bnretrofit.errors import TrainingDivergedError
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training import TrainingConfig, finetune_on
from bnretrofit.training.history import Epoch
from bnretrofit.training.memory_keeper import MemoryKeeper
from bnretrofit.training_data import TrainingSource, open_training

NETWORK = "vgg6_cifar10"
PLAIN, NORMS = "plain", "retrofitted"
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
TRAINS = 0.01


@dataclass(frozen=True, slots=True)
class Run:
    """One run: what it depends on."""

    network: str
    bn_stats: str
    rate: float
    seed: int
    batch_size: int
    epochs: int
    steps: int | None = None


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__.splitlines()[0])
    parser.add_argument("section", choices=["rates", "batches"])
    parser.add_argument("--epochs", type=int, default=1, help="of rates; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="default: %(default)s")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 8, 16, 32], help="of batches")
    parser.add_argument("--budget", type=int, default=6400, help="images of a run of batches; default: %(default)s")
    parser.add_argument("--images", type=Path, help="a folder with CIFAR-10's train and test, unpacked")
    parser.add_argument("--workers", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args(arguments)
    began = load()
    chosen = rates(options) if options.section == "rates" else batches(options)
    with images(options.images) as folder:
        found = [(run, outcome(run, folder, options.workers)) for run in chosen]
    rows = [{**asdict(run), **result} for run, result in found]
    print(table(*(rates_table(found) if options.section == "rates" else batches_table(found))))
    record("finetune", arguments, {"load_before": began, "load_after": load(), "runs": rows})


def rates(options: argparse.Namespace) -> list[Run]:
    return [
        Run(network, "batch", rate, seed, 128, options.epochs)
        for seed in range(options.seeds)
        for rate in options.rates
        for network in (PLAIN, NORMS)
    ]


def batches(options: argparse.Namespace) -> list[Run]:
    return [
        Run(NORMS, bn_stats, rate, seed, size, 1, options.budget // size)
        for size in options.batch_sizes
        for seed in range(options.seeds)
        for rate in options.rates
        for bn_stats in ("batch", "frozen")
    ]


def outcome(run: Run, folder: Path, workers: int) -> dict[str, Any]:
    """Accuracy by epoch on the test images, from the results file where it is there; None for a run that diverged."""
    cached = RESULTS / "finetune_runs.jsonl"
    lines = [json.loads(line) for line in cached.read_text().splitlines()] if cached.is_file() else []
    known = next((line["result"] for line in lines if line["run"] == asdict(run)), None)
    if known is None:
        known = trained(run, folder, workers)
        with cached.open("a") as file:
            file.write(json.dumps({"run": asdict(run), "result": known}) + "\n")
    print(run, known["top1"], flush=True)
    found: dict[str, Any] = known
    return found


def trained(run: Run, folder: Path, workers: int) -> dict[str, Any]:
    network = pretrained()
    source = TrainingSource(
        str(folder / "train"),
        Preprocessing((3, 32, 32)),
        val=str(folder / "test"),
        seed=run.seed,
        batch_size=run.batch_size,
        workers=workers,
    )
    config = TrainingConfig(
        epochs=run.epochs, steps=run.steps, lr=run.rate, bn_stats=run.bn_stats, seed=run.seed, warmup_steps=20
    )
    keeper = MemoryKeeper()
    with closing(open_training(source)) as data:
        if run.network == NORMS:
            network = bnretrofit.retrofit(network, list(islice(data.calibration_batches(1024), 8)))
        try:
            results = finetune_on(network, data, config, device="cpu", keeper=keeper)
        except TrainingDivergedError:
            epochs = keeper.state.progress.history.epochs if keeper.state else ()
            return {"epochs": accuracies(epochs), "top1": None}
    judged = results.last.evaluation
    return {"epochs": accuracies(results.history.epochs), "top1": None if judged is None else judged.top1}


def accuracies(epochs: tuple[Epoch, ...]) -> list[float | None]:
    return [epoch.val_top1 for epoch in epochs]


def pretrained() -> nn.Module:
    network = asset_network(NETWORK)
    network.load_state_dict(load_file(assets() / "weights" / f"{NETWORK}.safetensors"))
    return network.eval()


def assets() -> Path:
    return Path(os.environ.get("BNRETROFIT_ASSETS", ROOT.parent / "shared" / "assets"))


@contextmanager
def images(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="cifar10-") as made:
        with tarfile.open(assets() / "data" / "cifar10.tar.gz") as tar:
            tar.extractall(made, filter="data")
        yield Path(made)


def spread(values: list[float | None]) -> str:
    """Mean and the distance from the least to the most, in per cent; how many diverged."""
    finite = [100 * value for value in values if value is not None]
    if not finite:
        return "diverged"
    lost = f", {len(values) - len(finite)} diverged" if len(finite) < len(values) else ""
    return f"{statistics.mean(finite):.2f} ({min(finite):.2f}-{max(finite):.2f}{lost})"


def rates_table(found: list[tuple[Run, dict[str, Any]]]) -> tuple[list[str], list[list[str]]]:
    values: dict[tuple[str, float], list[float | None]] = {}
    for run, result in found:
        values.setdefault((run.network, run.rate), []).append(result["top1"])
    kinds = sorted({rate for _, rate in values})
    means = {key: mean(some) for key, some in values.items()}
    best = max(means[PLAIN, rate] for rate in kinds)
    rows = [
        [
            f"{rate:g}",
            *(
                spread(values[name, rate]) + ("  trains" if means[name, rate] >= best - TRAINS else "")
                for name in (PLAIN, NORMS)
            ),
        ]
        for rate in kinds
    ]
    return ["rate", PLAIN, NORMS], rows


def batches_table(found: list[tuple[Run, dict[str, Any]]]) -> tuple[list[str], list[list[str]]]:
    values: dict[tuple[int, str, float], list[float | None]] = {}
    for run, result in found:
        values.setdefault((run.batch_size, run.bn_stats, run.rate), []).append(result["top1"])
    rows = []
    for size in sorted({size for size, _, _ in values}):
        row = [str(size)]
        for kind in ("frozen", "batch"):
            # Each at its own best rate: that is what somebody would use.
            rate = max(
                (rate for at, of, rate in values if (at, of) == (size, kind)),
                key=lambda rate: mean(values[size, kind, rate]),
            )
            row.append(f"{spread(values[size, kind, rate])} at {rate:g}")
        rows.append(row)
    return ["batch", "frozen", "batch statistics"], rows


def mean(values: list[float | None]) -> float:
    """A run that diverged counts as one that knows nothing."""
    return statistics.mean(0.0 if value is None else value for value in values)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
