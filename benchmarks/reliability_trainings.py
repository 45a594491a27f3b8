"""kill -9 while `bnretrofit finetune` runs, then `--resume`: the very bytes of a run that nobody disturbed.

The command trains the bundled network, with norms, on the bundled images, in a process that is forked from one that has
run it before. Runs differ in what is saved when, in how many workers decode, before and after the kill, and in what is
random besides order and augmentation: dropout, mixing, and an average of the weights; and in the layout in memory.
"""

import importlib
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from benchmarks.reliability_damage import Tally
from benchmarks.reliability_edits import dice
from benchmarks.reliability_forks import Fork, forked
from benchmarks.reliability_watching import Work
from benchmarks.reliability_workers import findings

__all__ = ["trainings"]

BUNDLED = Path(__file__).parents[1] / "checkpoints"
KINDS: tuple[tuple[str, ...], ...] = (
    ("--save-steps", "1", "--opt", "adamw", "--lr", "0.001", "--bn-stats", "frozen"),
    ("--save-steps", "3", "--mixup", "0.2", "--model-ema-decay", "0.9"),
    (),
    ("--channels-last", "--opt", "lamb", "--lr", "0.005", "--grad-accum-steps", "2", "--save-steps", "1"),
)
IMPORTED = (
    *("accelerate", "matplotlib.backends.backend_agg", "timm.optim", "timm.scheduler", "timm.utils", "yaml"),
    *("torch.export", "torch._dynamo", "torch._functorch.aot_autograd", "torchvision.models", "timm.data"),
)
CARELESS = "weights.pt"
RESULTS = ("best.safetensors", "last.safetensors", "summary.csv")
GOOD = ("the same bytes",)

Command = Callable[[Path, tuple[str, ...], int], None]
"""(the run's folder, options, workers) -> a run to its end, from where the folder says."""


def trainings(count: int, jobs: int) -> dict[str, Any]:
    """Kills at random points of a run, and its end when it is resumed."""
    ours = Tally(findings(killing(finetune), range(count), jobs=jobs, seconds=600), GOOD)
    theirs = Tally(findings(killing(careless), range(max(count // 5, 4)), jobs=jobs, seconds=60), GOOD)
    return {**ours.beyond(GOOD), "control": theirs.beyond(GOOD)}


def finetune(folder: Path, options: tuple[str, ...], workers: int) -> None:
    """The command, as a shell runs it."""
    from cli.main import main

    images = ("-d", str(BUNDLED / "digits" / "train"), "--val", str(BUNDLED / "digits" / "val"), "-j", str(workers))
    training = ("--epochs", "3", "-b", "25", "--lr", "0.02", "--device", "cpu", *options)
    resume = ("--resume",) if folder.exists() else ()
    main(["finetune", str(folder.parent / "bn.safetensors"), *images, *training, "-o", str(folder), *resume])


def careless(folder: Path, _options: tuple[str, ...], _workers: int) -> None:
    """A script that saves the weights after each epoch, and begins with them again."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    folder.mkdir(exist_ok=True)
    path, done = folder / CARELESS, 0
    if path.exists():
        done, state = torch.load(path)
        model.load_state_dict(state)
    for epoch in range(done, 20):
        for _ in range(10):
            loss = nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(0, 3, (16,)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.save((epoch + 1, model.state_dict()), path)


def killing(command: Command) -> Callable[[Path], Work]:
    """What a worker does: run the command, kill it, run it again, and compare."""

    def begin(place: Path) -> Work:
        # Training maps more than the room of a worker that reads files, and would abort now and then.
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        # Its watching thread would be the second one of a process that is to be forked.
        tqdm.monitor_interval = 0
        # Not by training: that leaves threads. A fork that had to import them would be killed while it does.
        for name in IMPORTED:
            importlib.import_module(name)
        if command is finetune:
            prepare(place)
        known: dict[int, tuple[dict[str, bytes], float]] = {}

        def one(number: int) -> tuple[str, str]:
            draw, kind = dice(number), number % len(KINDS)
            if kind not in known:
                known[kind] = undisturbed(command, place, KINDS[kind])
            whole, duration = known[kind]
            folder = place / f"run{number}"
            moment = killed(command, folder, KINDS[kind], duration, draw)
            code = started(command, folder, KINDS[kind], draw.choice((0, 1, 2))).ended()
            found = kept(folder)
            shutil.rmtree(folder)
            said = (place / "said").read_text(errors="replace")[-150:] if code else ""
            words = [f"exit code {code}"] if code else []
            words += [f"another {name}" for name, data in whole.items() if found.get(name) != data]
            return ", ".join(words) or GOOD[0], f"killed after {moment:.2f} of {duration:.2f} s, {KINDS[kind]} {said}"

        return one

    return begin


def killed(command: Command, folder: Path, options: tuple[str, ...], duration: float, draw: random.Random) -> float:
    """Kill a run in its midst: when it has begun to keep something, and before its end. The moment, in seconds."""
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        moment = duration * draw.random()
        child = started(command, folder, options, draw.choice((0, 1, 2)))
        child.wait_for_beginning()
        child.kill_after(moment)
        if child.ended() == -signal.SIGKILL and folder.exists() and any(folder.iterdir()):
            return moment


def prepare(place: Path) -> None:
    """The bundled network with norms."""
    from cli.main import main

    model = (str(BUNDLED / "digits_vgg11.safetensors"), "-m", "bnretrofit:digits_vgg11")
    images = ("-d", str(BUNDLED / "digits" / "train"), "-n", "50")
    work = partial(main, ["retrofit", *model, *images, "-o", str(place / "bn.safetensors")])
    if silent(work, place).ended() != 0:
        raise RuntimeError(f"the bundled network cannot be retrofitted: {(place / 'said').read_text()}")


def undisturbed(command: Command, place: Path, options: tuple[str, ...]) -> tuple[dict[str, bytes], float]:
    """What a run that nobody disturbs keeps, and how long it takes."""
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise RuntimeError("a process with threads cannot be forked")
    folder = place / "whole"
    shutil.rmtree(folder, ignore_errors=True)
    child = started(command, folder, options, 0)
    child.wait_for_beginning()
    start = time.perf_counter()
    if child.ended() != 0:
        raise RuntimeError(f"the command does not run undisturbed: {(place / 'said').read_text()[-500:]}")
    duration, whole = time.perf_counter() - start, kept(folder)
    if len(whole) != (len(RESULTS) if command is finetune else 1):
        raise RuntimeError(f"an undisturbed run leaves {', '.join(whole)} alone")
    return whole, duration


def started(command: Command, folder: Path, options: tuple[str, ...], workers: int) -> Fork:
    return silent(partial(command, folder, options, workers), folder.parent)


def silent(work: Callable[[], object], place: Path) -> Fork:
    """Work in a process of its own, which says what it says to a file."""

    def before() -> None:
        file = os.open(place / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        # A fork loses torch's pool of threads: made anew here, before the threads of a backward pass look for it. By
        # chance they would abort ("Invalid thread pool!"), in one of twenty runs.
        torch.set_num_threads(1)

    return forked(work, before=before)


def kept(folder: Path) -> dict[str, bytes]:
    """The results of a run."""
    return {name: (folder / name).read_bytes() for name in (*RESULTS, CARELESS) if (folder / name).is_file()}
