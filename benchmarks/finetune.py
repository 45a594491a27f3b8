"""What norms bring in fine-tuning: the network without them and the retrofitted one, at the same budget.

    python -m benchmarks.finetune rates --epochs 1 5 20 --seeds 0 1 2
    python -m benchmarks.finetune steps
    python -m benchmarks.finetune batches
    python -m benchmarks.finetune page

`rates`: a grid of learning rates, plain and retrofitted, with as many seeds; a rate trains if its accuracy is within a
point of the plain network's best at the same budget. `steps`: ever smaller budgets for the retrofitted network at one
rate, to find in how many steps it is as good as the plain one's best. `batches`: batch statistics against frozen ones,
by batch size, over as many images. `page`: docs/finetuning_figures.md and its plot, from all runs that were made.

The networks are in `finetune_subjects`. A run that is in results/finetune_runs.jsonl already is not made again. All
runs use `bnretrofit finetune`'s own loop, defaults and augmentation, with channels last, which is faster.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.finetune_page import write_page
from benchmarks.finetune_runs import NORMS, PLAIN, Run, outcomes
from benchmarks.finetune_subjects import SUBJECTS, unpacked
from bnretrofit.training_data.augmentation import AUGMENTATIONS

RATES = {PLAIN: (0.001, 0.003, 0.01, 0.03), NORMS: (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)}
"""Where the plain network trains at the highest of these, go on with `--plain-rates`."""


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__.splitlines()[0])
    parser.add_argument("section", choices=["rates", "steps", "batches", "page"])
    parser.add_argument("--subject", choices=list(SUBJECTS), default="vgg6_cifar10", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1], help="of rates; default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: %(default)s")
    parser.add_argument("--rates", type=float, nargs="*", default=list(RATES[NORMS]), help="of the retrofitted network")
    parser.add_argument("--plain-rates", type=float, nargs="*", default=list(RATES[PLAIN]), help="of the plain network")
    parser.add_argument("--dropout", type=float, help="of all dropouts, in both networks; default: as they are")
    parser.add_argument("--amp", choices=["no", "bf16"], default="no", help="mixed precision; default: %(default)s")
    parser.add_argument("--aug", choices=AUGMENTATIONS, default="auto", help="default: %(default)s")
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 100, 130, 200], help="of steps")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 8, 16, 32], help="of batches")
    parser.add_argument("--budget", type=int, default=6400, help="images of a run of batches; default: %(default)s")
    parser.add_argument("--images", type=Path, help="the images, unpacked")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode; default: %(default)s")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on a core; default: %(default)s")
    options = parser.parse_args(arguments)
    if options.section != "page":
        chosen = {"rates": rates, "steps": steps, "batches": batches}[options.section](options)
        with unpacked(SUBJECTS[options.subject], options.images) as folder:
            for run, outcome in outcomes(chosen, folder, options.workers, options.jobs):
                print(run, outcome["top1"], flush=True)
    write_page()


def rates(options: argparse.Namespace) -> list[Run]:
    """Seeds in the outer loop: what is there of an unfinished grid can be compared."""
    return [
        run_of(options, norms, rate, seed, epochs=epochs)
        for epochs in options.epochs
        for seed in options.seeds
        for norms, kinds in ((PLAIN, options.plain_rates), (NORMS, options.rates))
        for rate in kinds
    ]


def steps(options: argparse.Namespace) -> list[Run]:
    return [
        run_of(options, NORMS, rate, seed, steps=count)
        for seed in options.seeds
        for count in options.steps
        for rate in options.rates
    ]


def batches(options: argparse.Namespace) -> list[Run]:
    return [
        run_of(options, NORMS, rate, seed, steps=options.budget // size, batch_size=size, bn_stats=kind)
        for size in options.batch_sizes
        for seed in options.seeds
        for rate in options.rates
        for kind in ("batch", "frozen")
    ]


def run_of(options: argparse.Namespace, norms: str, rate: float, seed: int, **others: Any) -> Run:
    given = {"batch_size": SUBJECTS[options.subject].batch_size, **others}
    conditions = {"dropout": options.dropout, "amp": options.amp, "aug": options.aug}
    return Run(options.subject, norms, rate, seed, **conditions, **given)


if __name__ == "__main__":
    main(sys.argv[1:])
