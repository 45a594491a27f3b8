"""What the outputs are compared with: labels, smoothed or mixed."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from bnretrofit.errors import InputRejectedError
from bnretrofit.training.config import TrainingConfig
from bnretrofit.training_data.seeding import preserved, seed

__all__ = ["Mixing", "loss_of"]

Loss = Callable[[Tensor, Tensor], Tensor]


def loss_of(config: TrainingConfig) -> Loss:
    """The loss that the settings ask for, of logits (N, classes) and labels (N,) or shares (N, classes)."""
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

    if config.mixup or config.cutmix:
        # Mixing smooths the labels itself.
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(config.label_smoothing) if config.label_smoothing else nn.CrossEntropyLoss()


class Mixing:
    """Mixup and cutmix, timm's; the same for the same seed and step.

    Args:
        config: The run's settings.
        classes: Outputs of the network.
    """

    def __init__(self, config: TrainingConfig, classes: int) -> None:
        from timm.data import Mixup

        self._seed = config.seed
        self._mix: Any = None
        if config.mixup or config.cutmix:
            self._mix = Mixup(config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=classes)

    @property
    def is_on(self) -> bool:
        """Whether it mixes anything."""
        return self._mix is not None

    def __call__(self, images: Tensor, labels: Tensor, *place: int) -> tuple[Tensor, Tensor]:
        """Mix a batch; one of an odd size loses its last image, since images are mixed in pairs."""
        if self._mix is None:
            return images, labels
        if not images.is_floating_point():
            kind = str(images.dtype).removeprefix("torch.")
            remedy = "convert them to float, or take neither mixup nor cutmix"
            raise InputRejectedError(f"images of {kind} cannot be mixed", remedy=remedy)
        even = len(images) // 2 * 2
        if not even:
            remedy = "take a larger --batch-size, or neither mixup nor cutmix"
            raise InputRejectedError("a batch of one image cannot be mixed", remedy=remedy)
        # timm draws from numpy's global generator, and mixes in place.
        with preserved():
            seed(self._seed, "mixing", *place)
            mixed: tuple[Tensor, Tensor] = self._mix(images[:even].clone(), labels[:even])
        return mixed
