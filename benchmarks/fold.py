"""Folding a checkpoint file against what cannot be avoided (read, digest, finiteness check, write).

    python -m benchmarks.fold

A vgg16_bn file (528 MiB; random weights, statistics, gamma and beta) becomes a vgg16 file, each time in a fresh process
that has imported torch, torchvision, timm and the library before the clock starts. torch.export loads more modules when
it is first called; in the rows "export warmed" it has been called before the clock starts, on one linear layer.
"""

import argparse
import copy
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.measuring import load, peak_memory, ratios, record, resident, rotated, table, timed

FLOOR, FOLD, WARM = "unavoidable", "fold_checkpoint", "fold_checkpoint, export warmed"
CONTENDERS = (FLOOR, FOLD, WARM)
WAIT, WRITE = "write: wait for the digest", "write: tensors"
BESIDE = " (in a thread)"

# Where fold_checkpoint's time goes: functions by the module (or class) that holds their name, and their phase. A name
# that is no longer there is left out, and its time shows under its caller's phase or as "other".
PHASES = (
    ("workflows.folding", "open_model", "open: build, load"),
    ("workflows.folding", "architecture", "open: build, load"),
    ("workflows.opening", "read", "read and check"),
    ("workflows.folding", "fold_captured", "fold"),
    ("workflows.folding", "verify_labelled", "verify: other"),
    ("verification", "compare_graphs", "verify: graphs and tensors"),
    ("verification", "prove", "verify: graphs and tensors"),
    ("verification", "_outputs", "verify: run"),
    ("folding", "capture", "capture"),
    ("workflows.folding", "header_for", WAIT),
    ("publishing", "save_file", WRITE),
    ("publishing:PendingOutput", "publish", "write: finish, sync, rename"),
)


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


def network(name: str) -> nn.Module:
    """A VGG with norms that do something: random statistics, gamma and beta."""
    from torchvision import models

    torch.manual_seed(0)
    model: nn.Module = models.get_model(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
            if module.running_mean is not None and module.running_var is not None:
                nn.init.normal_(module.running_mean, 0.0, 0.3)
                nn.init.uniform_(module.running_var, 0.3, 2.0)
    return model


def make_file(name: str, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(network(name).state_dict(), path, metadata={"format": "pt"})
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


def child(name: str, model: str, folder: Path) -> dict[str, Any]:
    """One contender in this process: its seconds, its phases, and the memory before and at the most."""
    import safetensors.torch  # noqa: F401 - the imports of both contenders come before the clock
    import timm.data  # noqa: F401
    import torchvision  # noqa: F401

    import bnretrofit.workflows.folding  # noqa: F401

    if name == WARM:
        torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),), strict=False)
    phases = Phases()
    source, output = folder / "source.safetensors", folder / "output.safetensors"
    before, peak_before = resident(), peak_memory()
    if name == FLOOR:
        seconds = timed(lambda: unavoidable(source, output, phases))
    else:
        phases.watch()
        seconds = timed(lambda: fold_file(source, output, model))
    return {
        "seconds": seconds,
        "phases": phases.seconds,
        "before": before,
        "peak_before": peak_before,
        "peak": peak_memory(),
    }


def unavoidable(source: Path, output: Path, phases: "Phases") -> None:
    """Read, digest, check and write the same tensors: the digest in a thread, as fold_checkpoint has it."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    digest: list[str] = []

    def compute_digest() -> None:
        with source.open("rb") as file:
            digest.append(hashlib.file_digest(file, "sha256").hexdigest())

    thread = threading.Thread(target=compute_digest)
    thread.start()
    with phases.of("read and check"):
        with safe_open(source, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not all(bool(value.isfinite()) for value in torch.aminmax(tensor)):
                raise ValueError(name)
    with phases.of(WAIT):
        thread.join()
    temporary = output.with_suffix(".part")
    with phases.of(WRITE):
        save_file(tensors, temporary, metadata={"format": "pt", "source": digest[0]})
    with phases.of("write: finish, sync, rename"):
        for path in (temporary, output.parent):
            if path is not temporary:
                temporary.replace(output)
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def fold_file(source: Path, output: Path, model: str) -> None:
    from bnretrofit.workflows.folding import fold_checkpoint
    from bnretrofit.workflows.images import ImageChoice
    from bnretrofit.workflows.opening import ModelChoice

    twin = f"torchvision:{model.removesuffix('_bn')}"
    fold_checkpoint(source, ModelChoice(f"torchvision:{model}"), ImageChoice(None), output, like=twin)


class Phases:
    """Seconds by phase; what runs within another phase counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.inner = threading.local()

    def of(self, phase: str) -> "Phase":
        return Phase(self, phase)

    def watch(self) -> None:
        """Measure the functions of PHASES wherever this process calls them."""
        import importlib

        for module_name, name, phase in PHASES:
            module, _, holder = module_name.partition(":")
            owner: Any = importlib.import_module(f"bnretrofit.{module}")
            owner = getattr(owner, holder, None) if holder else owner
            work = getattr(owner, name, None)
            if work is not None:
                setattr(owner, name, self._measured(work, phase))

    def _measured(self, work: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            with self.of(phase):
                return work(*args, **kwargs)

        return measured


class Phase:
    """A stretch of time, as a context manager."""

    def __init__(self, phases: Phases, name: str) -> None:
        self.phases = phases
        self.name = name

    def __enter__(self) -> None:
        self.outer = getattr(self.phases.inner, "seconds", 0.0)
        self.phases.inner.seconds = 0.0
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        whole = time.perf_counter() - self.start
        own = whole - self.phases.inner.seconds
        aside = "" if threading.current_thread() is threading.main_thread() else BESIDE
        name = f"{self.name}{aside}"
        self.phases.seconds[name] = self.phases.seconds.get(name, 0.0) + own
        self.phases.inner.seconds = self.outer + whole


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


def folding_errors(name: str, count: int) -> dict[str, dict[str, float]]:
    """Errors against float64: of the outputs of the unfolded network and the folded ones, and of their weights."""
    from torchvision import models

    import bnretrofit

    model = network(name)
    inputs = torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    twin = models.get_model(name.removesuffix("_bn"))
    folded: dict[str, nn.Module] = {
        "unfolded, float32": model,
        "bnretrofit.fold": bnretrofit.fold(model, inputs[:1], like=twin),
        "torch.nn.utils.fusion": fused_by_pairs(model),
    }
    try:
        from torch.fx.experimental.optimization import fuse
    except ImportError:
        print("torch.fx.experimental.optimization is not there, so it is left out")
    else:
        folded["torch.fx fuse"] = fuse(model)
    exact = exact_weights(model)
    with torch.inference_mode():
        reference = copy.deepcopy(model).double()(inputs.double())
        return {name: errors_of(found, inputs, reference, exact) for name, found in folded.items()}


def fused_by_pairs(model: nn.Module) -> nn.Module:
    """Torch's own fusion of each convolution with the norm after it."""
    result = copy.deepcopy(model)
    for parent in result.modules():
        names = list(parent._modules) if isinstance(parent, nn.Sequential) else []
        for first, second in pairwise(names):
            layer, norm = parent._modules[first], parent._modules[second]
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent._modules[first], parent._modules[second] = fuse_conv_bn_eval(layer, norm), nn.Identity()
    return result


def exact_weights(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution with the norm after it absorbed, in float64."""
    modules = list(model.modules())
    results = []
    for layer, norm in pairwise(modules):
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert layer.bias is not None
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            bias = (layer.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
            results.append(((layer.weight.double() * scale[:, None, None, None]).detach(), bias.detach()))
    return results


def errors_of(
    model: nn.Module, inputs: Tensor, reference: Tensor, exact: list[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Of outputs: over the largest output. Of weights: over the element itself. Of biases: over the layer's largest."""
    error = (model(inputs).double() - reference).abs() / reference.abs().max()
    found = {"output_max": error.max(), "output_mean": error.mean()}
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.bias is not None]
    if isinstance(model, fx.GraphModule) or not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        weights = [
            ((layer.weight - weight) / weight).abs().max() for layer, (weight, _) in zip(layers, exact, strict=True)
        ]
        biases = [
            (layer.bias - bias).abs().max() / bias.abs().max()
            for layer, (_, bias) in zip(layers, exact, strict=True)
            if layer.bias is not None
        ]
        found |= {"weight_max": torch.stack(weights).max(), "bias_max": torch.stack(biases).max()}
    return {name: float(f"{float(value):.3g}") for name, value in found.items()}


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
