"""A study and images -> what was found: its runs are made one after the other."""

from collections.abc import Sequence

from tqdm import tqdm

from bnretrofit.studies.findings import Finding
from bnretrofit.studies.images import Images
from bnretrofit.studies.learning import learn
from bnretrofit.studies.recipes import Budget
from bnretrofit.studies.results import Results
from bnretrofit.studies.study import Study

__all__ = ["DIGITS", "run_study"]

DIGITS = Budget("digits", learnt=200, judged=360, steps=120, batch_size=50)
"""Thirty epochs of the bundled images."""


def run_study(study: Study, images: Images, budget: Budget, seeds: Sequence[int]) -> Finding:
    """Make the runs of a study, with a progress bar on stderr, and say what follows.

    Args:
        study: Which.
        images: What the networks learn from.
        budget: Of each run; named after the images.
        seeds: Every run is made with each of them.
    """
    recipes = list(dict.fromkeys(study.recipes(budget, seeds)))
    bar = tqdm(recipes, study.name, unit="run", delay=1.0, leave=False)
    outcomes = {recipe: learn(recipe, images) for recipe in bar}
    return study.find(study, Results(budget, seeds, outcomes, images))
