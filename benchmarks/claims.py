"""What batch normalisation is said to do, each claim tried on small VGGs with norms that bnretrofit inserts.

    python -m benchmarks.claims                                # all studies, on the bundled digits
    python -m benchmarks.claims --images cifar10 --jobs 2      # on 10,000 images of CIFAR-10
    python -m benchmarks.claims depth speed --seeds 0 1 2 3 4

The studies are those of `bnretrofit study`. A run that is in results/claims_runs.jsonl already is not made again; what
was found is added to results/claims.jsonl, from which `python -m benchmarks.tables` makes docs/claims.md.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.finetune_runs import made_with
from benchmarks.finetune_subjects import SUBJECTS, unpacked
from benchmarks.measuring import RESULTS, record
from bnretrofit.studies.catalogue import STUDIES
from bnretrofit.studies.images import Images, bundled_digits, images_of
from bnretrofit.studies.learning import learn
from bnretrofit.studies.recipes import Budget, Outcome, Recipe
from bnretrofit.studies.results import Results
from bnretrofit.studies.running import DIGITS

__all__ = ["BUDGETS", "known_runs"]

CACHE = RESULTS / "claims_runs.jsonl"
MOST, MOST_TO_JUDGE = 10_000, 1_000
"""Images of CIFAR-10."""

BUDGETS = {"digits": DIGITS, "cifar10": Budget("cifar10", MOST, MOST_TO_JUDGE, steps=400, batch_size=64, looks=10)}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"of: {', '.join(STUDIES)}; default: all")
    parser.add_argument("--images", choices=list(BUDGETS), default="digits", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="of CIFAR-10's images, unpacked")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: %(default)s")
    parser.add_argument(
        "--jobs",
        type=int,
        choices=range(1, 65),
        metavar="N",
        default=1,
        help="runs at a time, each on a core; default: %(default)s",
    )
    options = parser.parse_args(arguments)
    unknown = set(options.studies) - set(STUDIES)
    if unknown:
        parser.error(f"there is no study {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    # Where the images were unpacked says nothing to anybody else.
    told = [each for each in arguments if each not in ("--folder", str(options.folder))]
    budget, seeds = BUDGETS[options.images], list(dict.fromkeys(options.seeds))
    chosen = [STUDIES[name] for name in options.studies or STUDIES]
    with unpacked(SUBJECTS["cifar10_vgg16"], options.folder if options.images == "cifar10" else Path()) as folder:
        images = images_named(options.images, folder)
        lasting = {study.name: study.lasting(budget) for study in chosen}
        wanted = [recipe for study in chosen for recipe in study.recipes(lasting[study.name], seeds)]
        outcomes = all_outcomes(wanted, options.images, folder, options.jobs)
        stamps = known_commits()
        for study in chosen:
            finding = study.find(study, Results(lasting[study.name], seeds, outcomes, images))
            print(f"{study.name}: {'yes' if finding.held else 'no'}. {finding.answer}", flush=True)
            runs = {"seeds": seeds, "steps": lasting[study.name].steps} if study.uses == "runs" else {}
            name = "bundled" if study.uses == "nothing" else options.images
            commits = sorted({stamps[recipe] for recipe in study.recipes(lasting[study.name], seeds)})
            made = {**made_with(), "runs": commits} if commits else made_with()
            record("claims", told, {"images": name, **runs, "made": made, "finding": finding.to_json()})


@cache
def images_named(name: str, folder: Path) -> Images:
    """Read once in each process."""
    return bundled_digits() if name == "digits" else _cifar10(folder)


def _cifar10(folder: Path) -> Images:
    return images_of(folder / "train", folder / "test", most=MOST, most_to_judge=MOST_TO_JUDGE)


def known_runs() -> dict[Recipe, Outcome]:
    """All runs that were made already."""
    return {Recipe.from_json(line["recipe"]): Outcome.from_json(line["outcome"]) for line in _lines()}


def known_commits() -> dict[Recipe, str]:
    """With which code each of them was made."""
    return {Recipe.from_json(line["recipe"]): line["made"]["commit"] for line in _lines()}


def _lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CACHE.read_text().splitlines()] if CACHE.is_file() else []


def all_outcomes(wanted: Iterable[Recipe], name: str, folder: Path, jobs: int) -> dict[Recipe, Outcome]:
    """Make the runs that nobody has made, and give all of them."""
    made, stamp = known_runs(), made_with()
    missing = [recipe for recipe in dict.fromkeys(wanted) if recipe not in made]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(one_outcome, recipe, name, folder): recipe for recipe in missing}
        for number, done in enumerate(as_completed(waiting), 1):
            recipe, outcome = waiting[done], done.result()
            with CACHE.open("a") as file:
                line = {"recipe": recipe.to_json(), "outcome": outcome.to_json(), "made": stamp}
                file.write(json.dumps(line) + "\n")
            print(f"{number} of {len(missing)}: {recipe} {outcome.top1}", file=sys.stderr, flush=True)
            made[recipe] = outcome
    return made


def one_outcome(recipe: Recipe, name: str, folder: Path) -> Outcome:
    """Make a run, on one core."""
    torch.set_num_threads(1)
    return learn(recipe, images_named(name, folder))


if __name__ == "__main__":
    main(sys.argv[1:])
