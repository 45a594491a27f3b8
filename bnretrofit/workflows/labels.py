"""The class folders of a training set -> which of a network's outputs each is."""

from collections.abc import Sequence

from bnretrofit.errors import InputRejectedError
from bnretrofit.zoo import imagenet_classes

__all__ = ["labels_for"]


def labels_for(names: Sequence[str], outputs: int) -> list[int] | None:
    """For each class the output that tells it; None if they are the outputs in their order.

    Folders named by WordNet ids are looked up among ImageNet's 1,000 classes.

    Raises:
        InputRejectedError: There are more or fewer classes than outputs, and their names do not tell.
    """
    if not names or len(names) == outputs:
        return None
    known = imagenet_classes() if outputs == 1000 else {}
    if all(name in known for name in names):
        return [known[name] for name in names]
    raise InputRejectedError(
        f"the network has {outputs} outputs, and the training set {len(names)} classes",
        why=f"such as {', '.join(names[:3])}",
        remedy=f"pass --num-classes {len(names)} to give it a new last layer",
    )
