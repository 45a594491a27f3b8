"""The watches, by name; and the one that looks at images unlike those of training."""

from torch import nn

from bnretrofit.norms import running_norms
from bnretrofit.recalibration import recalibrate
from bnretrofit.studies.images import Images, batches_of, some_of
from bnretrofit.studies.shifting import SHIFTS, shifted
from bnretrofit.studies.watch import Watch
from bnretrofit.studies.watched_inputs import WatchedInputs
from bnretrofit.studies.watched_landscape import WatchedLandscape
from bnretrofit.training.evaluation import evaluate

__all__ = ["watch_for"]

UNLABELLED = 256
"""Shifted images whose statistics are measured."""


def watch_for(name: str, model: nn.Module, images: Images) -> Watch:
    """The watch of that name, see `recipes.WATCHES`."""
    kinds = {"": Watch, "inputs": WatchedInputs, "landscape": WatchedLandscape, "shifted images": _Shifted}
    return kinds[name](model, images)


class _Shifted(Watch):
    """Accuracy on images that are brighter, blurred or noisy, and with statistics measured on them, without labels."""

    def end(self) -> None:
        for name in SHIFTS:
            moved = shifted(name, self.images)
            self.note(name, evaluate(self.model, batches_of(moved), quiet=True).top1)
            if running_norms(self.model):
                measured = recalibrate(self.model, [some_of(moved, UNLABELLED)[0]])
                self.note(name, evaluate(measured.model, batches_of(moved), quiet=True).top1)
