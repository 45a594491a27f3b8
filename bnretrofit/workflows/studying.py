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

__all__ = ["ImageFolders", "Studied", "known_studies", "study_claim"]

BATCH_SIZE, STEPS = 128, 400
"""Of a run on a user's own images."""


@dataclass(frozen=True, slots=True)
class ImageFolders:
    """A user's own images.

    Attributes:
        train: To learn from.
        test: To judge with.
        most: At most so many of either; None for all.
    """

    train: Path
    test: Path
    most: int | None


@dataclass(frozen=True, slots=True)
class Studied:
    """What was done.

    Attributes:
        study: Which.
        budget: Of each run.
        finding: What was found.
    """

    study: Study
    budget: Budget
    finding: Finding


def known_studies() -> Mapping[str, Study]:
    """All studies, by name."""
    return STUDIES


def study_claim(
    name: str, *, folders: ImageFolders | None, seeds: int, steps: int | None, plot: Path | None, overwrite: bool
) -> Studied:
    """Try a claim.

    Args:
        name: Of the study.
        folders: What the networks learn from; None for the bundled digits.
        seeds: How many times each run is made.
        steps: Of each run; None for what is usual for the images.
        plot: An SVG file; None for none.
        overwrite: It may exist.

    Raises:
        UsageError: There is no such study, or the plot cannot be written.
        RetrofitError: The images cannot be read, or the disk is full.
    """
    if name not in STUDIES:
        raise UsageError(f"there is no study '{name}'", remedy=nearest(name, list(STUDIES)))
    if plot is not None:
        if plot.suffix != ".svg":
            raise UsageError("a plot is .svg", where=str(plot), remedy=f"name it {plot.stem or 'plot'}.svg")
        check_place(plot, overwrite=overwrite)
    images, budget = _images_and_budget(folders)
    budget = budget if steps is None else replace(budget, steps=steps)
    finding = run_study(STUDIES[name], images, budget, range(seeds))
    if plot is not None:
        publish_text(plot, drawn(finding), overwrite=overwrite)
    return Studied(STUDIES[name], budget, finding)


def _images_and_budget(folders: ImageFolders | None) -> tuple[Images, Budget]:
    if folders is None:
        return bundled_digits(), DIGITS
    images = images_of(folders.train, folders.test, most=folders.most, most_to_judge=folders.most)
    size = min(BATCH_SIZE, len(images.train[1]))
    return images, Budget(folders.train.name, steps=STEPS, batch_size=size)
