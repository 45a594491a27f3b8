"""One set of images -> a part to train on and a part to validate with."""

import random
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from bnretrofit.errors import UsageError

__all__ = ["split"]


def split(labels: Sequence[int], share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Set a share of every class aside.

    Args:
        labels: The class of each image.
        share: Of each class, above 0 and below 1; at least one image of each class stays on either side.
        seed: Of the draw. The split depends on it, the labels and the share alone.

    Returns:
        Indices of the images to train on and of those to validate with, each in order, int64.

    Raises:
        UsageError: The share is out of range, or a class has one image only.
    """
    if not 0 < share < 1:
        raise UsageError("the share to validate with must be above 0 and below 1", why=f"it is {share:g}")
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    aside: set[int] = set()
    for label, indices in members.items():
        if len(indices) == 1:
            raise UsageError(
                "a class of one image cannot be split", where=f"class {label}", remedy="name a folder to validate with"
            )
        count = min(max(1, round(share * len(indices))), len(indices) - 1)
        aside.update(random.Random(f"split/{seed}/{label}").sample(indices, count))  # noqa: S311 - a sample, not a secret
    kept = [index for index in range(len(labels)) if index not in aside]
    return torch.tensor(kept), torch.tensor(sorted(aside))
