"""One run of fine-tuning: what it depends on, what it came to, and that it is not made twice."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

import bnretrofit
from benchmarks.finetune_subjects import SUBJECTS
from benchmarks.measuring import RESULTS
from benchmarks.step_cost import ROOT
from bnretrofit.errors import InputRejectedError, TrainingDivergedError
from bnretrofit.training import TrainingConfig, finetune_on
from bnretrofit.training.evaluation import evaluate
from bnretrofit.training.memory_keeper import MemoryKeeper
from bnretrofit.training_data import TrainingSource, open_training

__all__ = ["NORMS", "PLAIN", "Conditions", "Outcome", "Run", "known", "outcomes"]

PLAIN, NORMS = "plain", "retrofitted"
CACHE = RESULTS / "finetune_runs.jsonl"

Outcome = dict[str, Any]


class Conditions(NamedTuple):
    """What the plain network and the retrofitted one share, besides budget and images; see `Run`."""

    amp: str = "no"
    aug: str = "auto"
    dropout: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What the outcome of a run depends on, besides the code.

    Attributes:
        subject: See `finetune_subjects.SUBJECTS`.
        norms: "plain" or "retrofitted".
        rate: The learning rate after warm-up.
        seed: Of order, augmentation, dropout and a new head.
        epochs: Whole ones.
        steps: Instead of epochs.
        batch_size: Images of a step.
        bn_stats: "batch" or "frozen".
        dropout: Of all dropouts; None leaves them.
        amp: Mixed precision: "no" or "bf16".
        aug: Augmentation: "auto", "none", "light" or "timm".
    """

    subject: str
    norms: str
    rate: float
    seed: int
    epochs: int = 1
    steps: int | None = None
    batch_size: int = 128
    bn_stats: str = "batch"
    dropout: float | None = None
    amp: str = "no"
    aug: str = "auto"

    @property
    def conditions(self) -> Conditions:
        """What makes a table of its own."""
        return Conditions(self.amp, self.aug, self.dropout)


def known() -> dict[Run, Outcome]:
    """All runs that were made already."""
    lines = CACHE.read_text().splitlines() if CACHE.is_file() else []
    return {Run(**line["run"]): line["outcome"] for line in map(json.loads, lines)}


def outcomes(runs: Iterable[Run], folder: Path, workers: int, jobs: int) -> Iterator[tuple[Run, Outcome]]:
    """Make the runs that nobody has made, each in a process of its own, and give all of them as they come.

    One that fails is told, and the others go on.
    """
    made, wanted = known(), list(dict.fromkeys(runs))
    yield from ((run, made[run]) for run in wanted if run in made)
    # Each in a fresh process, on one core: what a run comes to does not depend on those before it or beside it.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = {pool.submit(trained, run, folder, workers): run for run in wanted if run not in made}
        try:
            for done in as_completed(waiting):
                run, failed = waiting[done], done.exception()
                if failed is not None:
                    print(f"failed: {run}: {failed}", file=sys.stderr)
                    continue
                outcome = done.result()
                with CACHE.open("a") as file:
                    file.write(json.dumps({"run": asdict(run), "outcome": outcome, "made": made_with()}) + "\n")
                yield run, outcome
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def made_with() -> dict[str, str]:
    """The commit and the versions: an outcome is of the code that made it, and "-dirty" where that is no commit's."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "bnretrofit", "benchmarks/*.py")
    return {"commit": _git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else ""), "torch": torch.__version__}


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def trained(run: Run, folder: Path, workers: int) -> Outcome:
    """Train, judge with the last epoch's weights, fold and judge again; accuracies are None where it diverged."""
    torch.set_num_threads(1)
    subject = SUBJECTS[run.subject]
    network = subject.network(run.seed)
    source = TrainingSource(
        str(folder / subject.train),
        subject.preprocessing,
        val=str(folder / subject.val),
        seed=run.seed,
        batch_size=run.batch_size,
        workers=workers,
        aug=run.aug,
    )
    config = TrainingConfig(
        epochs=run.epochs,
        steps=run.steps,
        lr=run.rate,
        bn_stats=run.bn_stats,
        dropout=run.dropout,
        amp=run.amp,
        channels_last=True,
        seed=run.seed,
    )
    keeper = MemoryKeeper()
    with closing(open_training(source)) as data:
        if run.norms == NORMS:
            network = bnretrofit.retrofit(network, list(islice(data.calibration_batches(1024), 1024)))
        try:
            results = finetune_on(network, data, config, device="cpu", keeper=keeper)
        except TrainingDivergedError as error:
            epochs = keeper.state.progress.history.epochs if keeper.state else ()
            return {"epochs": [epoch.val_top1 for epoch in epochs], "top1": None, "diverged": str(error)}
        judged = results.last.evaluation
        outcome: Outcome = {
            "epochs": [epoch.val_top1 for epoch in results.history.epochs],
            "steps": results.history.epochs[-1].step,
            "top1": None if judged is None else judged.top1,
            "loss": None if judged is None else judged.loss,
        }
        if run.norms == NORMS:
            network.load_state_dict(keeper.kept["last"].tensors)
            outcome |= folded(network, run, data)
    return outcome


def folded(network: torch.nn.Module, run: Run, data: Any) -> Outcome:
    """Fold, load what comes of it into the stock architecture, and judge that."""
    subject = SUBJECTS[run.subject]
    example = next(iter(data.calibration_batches(2)))
    try:
        tensors = bnretrofit.fold(network, example).state_dict()
    except InputRejectedError as error:
        return {"folded_top1": None, "fold_refused": str(error)}
    stock = subject.fresh()
    stock.load_state_dict(tensors, strict=True)
    return {"folded_top1": evaluate(stock.eval(), data.validation()).top1}
