"""Inserting norms that are to change nothing: ours beside other tools, by hand, and the recipe's first form.

    python -m benchmarks.insert_peers

Four networks without norms: squeezenet1_1 and vgg6_cifar10 with their trained weights and the images of imagenette and
CIFAR-10, from the folder of real networks ($BNRETROFIT_ASSETS, or shared/assets beside the checkout); the bundled
digits_vgg11; and torchvision's vgg11 as it is initialised. Each contender measures statistics on the same images, in a
process of its own, and its network is held against the one it was given on other images: *error* is relative to the
largest output of the image, the largest over all images. The onnxsim contenders work on the exported graph, and are
held against that graph, both run by onnxruntime with its optimisations off.

Statistics are held against float64 ones of the same modules' outputs, pooled over all images. Times are of the whole
insertion without the export, and of its statistics alone where they can be parted, over a plain forward pass of the
same images in the same process: processor time, since wall clock tells little beside other work. Memory is the peak
above what was held before.

Exits 1 if a network of ours is not equal in all bits.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from benchmarks.finetune_subjects import SUBJECTS
from benchmarks.insert_measuring import CONTENDERS, OURS, measured
from benchmarks.insert_networks import NETWORKS, Images, images_of
from benchmarks.measuring import load, ratios, record, table
from benchmarks.peers import versions
from benchmarks.step_cost import ROOT

HEAD = (
    "contender",
    "layers",
    "equal",
    "error",
    "top-1 kept",
    "loss",
    "top-1",
    "mean off",
    "variance off",
    "seconds",
    "÷ forward",
    "statistics ÷ forward",
    "peak MiB",
)


CLOCKED = ("forward", "insertion", "statistics")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.insert_peers", description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--images", type=Path, help="a folder with the images unpacked in imagenette/ and cifar10/")
    parser.add_argument("--child", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        (network,), (contender,) = options.networks, options.contenders
        images = stored(options.child / f"{network}.safetensors")
        print(json.dumps(measured(contender, NETWORKS[network].build(), images, options.rounds)))
        return
    began = load()
    found: dict[str, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            store(images_of(NETWORKS[name], unpacked_in(options.images, name)), Path(folder) / f"{name}.safetensors")
            found[name] = {
                contender: in_process(name, contender, Path(folder), options.rounds) for contender in options.contenders
            }
            print(
                "",
                table((name, *HEAD[1:]), [row(each, found[name][each]) for each in found[name]]),
                sep="\n",
                flush=True,
            )
    # Where the images were unpacked says nothing to anybody else.
    told = [each for each in arguments if each not in ("--images", str(options.images))]
    record("insert_peers", told, {"peers": versions(), "load_before": began, "load_after": load(), "networks": found})
    moved = [name for name, each in found.items() if OURS in each and not each[OURS].get("equal")]
    if moved:
        sys.exit(f"{OURS} is not the identity on: {', '.join(moved)}")


def unpacked_in(images: Path | None, network: str) -> Path | None:
    subject = NETWORKS[network].subject
    archive = None if subject is None else SUBJECTS[subject].archive
    return None if images is None or archive is None else images / archive


def store(images: Images, path: Path) -> None:
    tensors = {
        f"{kind}.{number:04}": batch
        for kind in ("train", "held_out")
        for number, batch in enumerate(getattr(images, kind))
    }
    save_file(tensors if images.labels is None else {**tensors, "labels": images.labels}, path)


def stored(path: Path) -> Images:
    tensors = load_file(path)
    batches = {
        kind: [tensors[name] for name in sorted(tensors) if name.startswith(kind)] for kind in ("train", "held_out")
    }
    return Images(batches["train"], batches["held_out"], tensors.get("labels"))


def in_process(network: str, contender: str, folder: Path, rounds: int) -> dict[str, Any]:
    """What one contender does with one network, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.insert_peers", "--networks", network, "--contenders", contender]
    command += ["--rounds", str(rounds), "--child", str(folder)]
    finished = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    if "said" not in figures:
        cpu = {what: [each for _, each in figures.get(f"{what}_seconds", [])] for what in CLOCKED}
        figures["over_forward"] = {what: ratios(each, cpu["forward"]) for what, each in cpu.items() if each}
    return figures


def row(contender: str, figures: dict[str, Any]) -> tuple[object, ...]:
    if "said" in figures:
        return (contender, figures["said"].partition(" (")[0], *[""] * (len(HEAD) - 2))
    before, after, statistics = figures["before"], figures["after"], figures["statistics"]
    return (
        contender,
        f"{figures['normalised']} of {figures['layers']}",
        "yes" if figures["equal"] else "no",
        "not finite" if figures["error"] is None else f"{figures['error']:.1e}",
        f"{figures['agreement']:.1%}",
        "" if before is None else f"{before['loss']:.4g} → {after['loss']:.4g}",
        "" if before is None else f"{before['top1']:.1%} → {after['top1']:.1%}",
        "" if statistics is None else f"{statistics['mean_max']:.1e}",
        "" if statistics is None else f"{statistics['var_max']:.1e}",
        f"{min(cpu for _, cpu in figures['insertion_seconds']):.2f}",
        over_forward(figures, "insertion"),
        over_forward(figures, "statistics"),
        figures["peak_mib"],
    )


def over_forward(figures: dict[str, Any], what: str) -> str:
    found = figures["over_forward"].get(what)
    return "" if found is None else f"{found['min']:.2f} ({found['median']:.2f})"


if __name__ == "__main__":
    main(sys.argv[1:])
