"""A checkpoint's shapes -> the architecture they are most like."""

import difflib

from tqdm import tqdm

from bnretrofit.errors import RetrofitError
from bnretrofit.zoo.building import build
from bnretrofit.zoo.names import ModelName, names_in

__all__ = ["similar_models"]

FEWEST = 16
"""Tensors of the smallest of these architectures, AlexNet: building a hundred of them takes many seconds."""


def similar_models(model: ModelName, shapes: dict[str, tuple[int, ...]], hint: str = "") -> str | None:
    """The architecture whose tensors are most like those given.

    torchvision's classifiers are tried, and timm's models with a name like the one asked for.

    Args:
        model: What was asked for.
        shapes: Key -> shape of what a checkpoint holds.
        hint: A text that may hold the right name, such as the checkpoint's: names like it are tried first.

    Returns:
        Its name; None if no architecture shares at least half of the tensors.
    """
    if 2 * len(shapes) <= FEWEST:
        return None
    stem = model.name.rpartition("/")[2].split(".")[0].split("_")[0].rstrip("0123456789")
    names = [ModelName("torchvision", name) for name in names_in("torchvision")]
    names += [ModelName("timm", name) for name in names_in("timm") if name.startswith(stem)][:40]
    names.sort(key=lambda name: difflib.SequenceMatcher(None, name.name, hint).ratio(), reverse=True)
    wanted, best, best_score = set(shapes.items()), None, 0.5
    for name in tqdm(names, desc="look for the nearest architecture", delay=1.0, leave=False):
        try:
            candidate = build(name, device="meta").model
        except RetrofitError:
            continue
        held = {(key, tuple(value.shape)) for key, value in candidate.state_dict().items()}
        score = len(held & wanted) / max(len(held | wanted), 1)
        if score > best_score:
            best, best_score = str(name), score
        if score == 1.0:
            break
    return best
