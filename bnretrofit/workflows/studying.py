"""What `bnretrofit study` does: try a claim on small networks, and draw what was found."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bnretrofit.choices import nearest
from bnretrofit.errors import UsageError
from bnretrofit.publishing import check_place, publish_text
from bnretrofit.studies.catalogue import STUDIES
from bnretrofit.studies.drawing import drawn
from bnretrofit.studies.findings import Finding
from bnretrofit.studies.images import Images, bundled_digits, images_of
from bnretrofit.studies.recipes import Budget
from bnretrofit.studies.running import DIGITS, run_study
from bnretrofit.studies.study import Study

__all__ = ["ImageFolders", "Studied", "StudyChoice", "check_plot", "draw_finding", "known_studies", "study_claim"]

BATCH_SIZE, STEPS, SEEDS, MOST = 128, 400, 3, 5000
"""Of a run on a user's own images, where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class ImageFolders:
    """A user's own images.

    Attributes:
        train: To learn from.
        test: To judge with.
    """

    train: Path
    test: Path


@dataclass(frozen=True, slots=True)
class StudyChoice:
    """How a claim is to be tried; None for what is usual.

    Attributes:
        folders: What the networks learn from; None for the bundled digits.
        most: Images of either folder, at most.
        seeds: How many times each run is made.
        steps: Of each run.
    """

    folders: ImageFolders | None = None
    most: int | None = None
    seeds: int | None = None
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Studied:
    """What was done.

    Attributes:
        study: Which.
        budget: Of each run.
        seeds: How many times each was made.
        finding: What was found.
    """

    study: Study
    budget: Budget
    seeds: int
    finding: Finding


def known_studies() -> Mapping[str, Study]:
    """All studies, by name."""
    return STUDIES


def study_claim(name: str, choice: StudyChoice) -> Studied:
    """Try a claim.

    Args:
        name: Of the study.
        choice: How.

    Raises:
        UsageError: There is no such study, or it does not do what was asked for.
        RetrofitError: The images cannot be read, or are too few.
    """
    if name not in STUDIES:
        raise UsageError(
            f"there is no study '{name}'", remedy=nearest(name, list(STUDIES)) or "`bnretrofit study` lists them"
        )
    study = STUDIES[name]
    _check(study, choice)
    images, budget = _images_and_budget(choice)
    budget = study.lasting(budget)
    budget = budget if choice.steps is None else replace(budget, steps=choice.steps)
    seeds = SEEDS if choice.seeds is None else choice.seeds
    return Studied(study, budget, seeds, run_study(study, images, budget, range(seeds)))


def _check(study: Study, choice: StudyChoice) -> None:
    asked = {
        "--data": study.uses == "nothing" and choice.folders is not None,
        "--seeds": study.uses != "runs" and choice.seeds is not None,
        "--steps": study.uses != "runs" and choice.steps is not None,
    }
    for option, refused in asked.items():
        if refused:
            why = "it trains nothing" if option != "--data" else "it has a network and images of its own"
            raise UsageError(f"the study '{study.name}' takes no {option}", why=why, remedy=f"leave out {option}")
    if choice.folders is None and choice.most is not None:
        raise UsageError("--limit goes with --data", remedy="name folders of images, or leave out --limit")


def _images_and_budget(choice: StudyChoice) -> tuple[Images, Budget]:
    if choice.folders is None:
        return bundled_digits(), DIGITS
    most, train = MOST if choice.most is None else choice.most, choice.folders.train
    images = images_of(train, choice.folders.test, most=most, most_to_judge=most)
    learnt, judged = len(images.train[1]), len(images.test[1])
    return images, Budget(train.name, learnt, judged, steps=STEPS, batch_size=min(BATCH_SIZE, learnt))


def check_plot(plot: Path, *, overwrite: bool) -> None:
    """Refuse a plot that cannot be written, before any work is done.

    Raises:
        UsageError: Its name is not that of an SVG file, or it exists.
        ResourceError: The folder cannot be written to.
    """
    if plot.suffix != ".svg":
        raise UsageError("a plot is .svg", where=str(plot), remedy=f"name it {plot.stem or 'plot'}.svg")
    check_place(plot, overwrite=overwrite)


def draw_finding(finding: Finding, plot: Path, *, overwrite: bool) -> None:
    """Write the plot of what was found.

    Raises:
        RetrofitError: See `check_plot`; or the disk is full.
    """
    check_plot(plot, overwrite=overwrite)
    publish_text(plot, drawn(finding), overwrite=overwrite)
