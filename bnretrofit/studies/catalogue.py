"""All studies, by name."""

from bnretrofit.studies.claims import (
    accuracy,
    activations,
    cost,
    covariate_shift,
    depth,
    history,
    initialisation,
    learning_rates,
    regularisation,
    shifted_images,
    small_batches,
    smoothness,
    speed,
)
from bnretrofit.studies.study import Study

__all__ = ["STUDIES"]

CLAIMS = (
    covariate_shift,
    smoothness,
    speed,
    learning_rates,
    initialisation,
    activations,
    depth,
    regularisation,
    accuracy,
    cost,
    small_batches,
    shifted_images,
    history,
)

STUDIES: dict[str, Study] = {claim.STUDY.name: claim.STUDY for claim in CLAIMS}
