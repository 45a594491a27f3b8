"""Folding a checkpoint file against what cannot be avoided (read, digest, finiteness check, write).

    python -m benchmarks.fold

A vgg16_bn file (528 MiB; random weights, statistics, gamma and beta) becomes a vgg16 file, each time in a fresh process
that has imported torch, torchvision, timm and the library before the clock starts. torch.export loads more modules when
it is first called; in the rows "export warmed" it has been called before the clock starts, on one linear layer.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.fold_contenders import CONTENDERS, FLOOR, child
from benchmarks.fold_errors import folding_errors
from benchmarks.fold_networks import network_with_norms
from benchmarks.fold_phases import BESIDE
from benchmarks.measuring import load, ratios, record, rotated, table


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fold", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vgg16_bn", help="a torchvision VGG with norms (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--images", type=int, default=8, help="for the error of the outputs (default: %(default)s)")
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        print(json.dumps(child(options.child, options.model, options.folder)))
        return
    began = load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_file(options.model, folder / "source.safetensors")
        size = (folder / "source.safetensors").stat().st_size
        print(f"{options.model}: {size / 1e6:.0f} MB; load average {began}")
        runs = race(options.model, folder, options.rounds)
    speed = speeds(runs, size)
    errors = folding_errors(options.model, options.images)
    show(speed, errors)
    record(
        "fold",
        arguments,
        {
            "model": options.model,
            "rounds": options.rounds,
            "file_bytes": size,
            "load_before": began,
            "load_after": load(),
            **speed,
            "error": errors,
        },
    )


def make_file(name: str, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(network_with_norms(name).state_dict(), path, metadata={"format": "pt"})
    os.sync()


def race(model: str, folder: Path, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What each contender's process reported in each round, with the whole process's seconds."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        for name in rotated(CONTENDERS, number):
            (folder / "output.safetensors").unlink(missing_ok=True)
            os.sync()
            command = [
                sys.executable,
                "-m",
                "benchmarks.fold",
                "--child",
                name,
                "--model",
                model,
                "--folder",
                str(folder),
            ]
            start = time.perf_counter()
            finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            report = json.loads(finished.stdout.splitlines()[-1])
            runs[name].append({**report, "process": time.perf_counter() - start})
        print(
            f"round {number + 1} of {rounds}:",
            {name: round(run[-1]["seconds"], 2) for name, run in runs.items()},
            flush=True,
        )
    return runs


def speeds(runs: dict[str, list[dict[str, Any]]], size: int) -> dict[str, Any]:
    floor = {key: [run[key] for run in runs[FLOOR]] for key in ("seconds", "process")}
    return {name: speed(found, floor, size) for name, found in runs.items()}


def speed(runs: list[dict[str, Any]], floor: dict[str, list[float]], size: int) -> dict[str, Any]:
    quickest = min(runs, key=lambda run: run["seconds"])
    seconds, process = [run["seconds"] for run in runs], [run["process"] for run in runs]
    known = [run for run in runs if run["peak"] is not None]
    found: dict[str, float] = quickest["phases"]
    other = quickest["seconds"] - sum(value for phase, value in found.items() if not phase.endswith(BESIDE))
    return {
        "seconds": [round(value, 3) for value in seconds],
        "over_unavoidable": ratios(seconds, floor["seconds"]),
        "process_seconds": [round(value, 3) for value in process],
        "process_over_unavoidable": ratios(process, floor["process"]),
        # Above the imports: what was resident once all was imported. If the imports' own peak was higher, from there.
        "peak_over_file": round(max(run["peak"] - run["before"] for run in known) / size, 3) if known else None,
        "imports_mib": round(max(run["before"] for run in known) / 2**20) if known else None,
        "phases_of_quickest": {phase: round(value, 3) for phase, value in {**found, "other": other}.items()},
    }


def show(speed: dict[str, Any], errors: dict[str, dict[str, float]]) -> None:
    rows = [
        (
            name,
            f"{min(row['seconds']):.2f}",
            *(f"{row['over_unavoidable'][which]:.2f}" for which in ("min", "median")),
            f"{min(row['process_seconds']):.2f}",
            f"{row['process_over_unavoidable']['median']:.2f}",
            row["peak_over_file"],
        )
        for name, row in speed.items()
    ]
    head = ("time", "s", "÷ unavoidable: min", "median", "process s", "÷: median", "peak ÷ file")
    print("", table(head, rows), sep="\n")
    phases = sorted({phase for row in speed.values() for phase in row["phases_of_quickest"]})
    body = [
        (phase, *(f"{row['phases_of_quickest'].get(phase, 0.0):.2f}" for row in speed.values())) for phase in phases
    ]
    print("", table(("seconds of the quickest run", *speed), body), sep="\n")
    keys = ("output_max", "output_mean", "weight_max", "bias_max")
    figures = [(name, *(f"{row[key]:.1e}" if key in row else "" for key in keys)) for name, row in errors.items()]
    print("", table(("relative error against float64", "output: max", "mean", "weight", "bias"), figures), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
