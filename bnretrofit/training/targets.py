"""What the outputs are compared with: labels, smoothed or mixed."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from bnretrofit.errors import InputRejectedError
from bnretrofit.training.config import TrainingConfig
from bnretrofit.training_data.seeding import preserved, seed

__all__ = ["Mixing", "check_mixing", "loss_of"]

Loss = Callable[[Tensor, Tensor], Tensor]


def loss_of(config: TrainingConfig) -> Loss:
    """The loss that the settings ask for, of logits (N, classes) and labels (N,) or shares (N, classes)."""
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

    if config.mixup or config.cutmix:
        # Mixing smooths the labels itself.
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(config.label_smoothing) if config.label_smoothing else nn.CrossEntropyLoss()


def check_mixing(config: TrainingConfig, images: int) -> None:
    """Refuse to mix a batch in which there is no pair of images.

    Args:
        config: The run's settings.
        images: Of the batch.

    Raises:
        InputRejectedError: It is to be mixed.
    """
    if (config.mixup or config.cutmix) and images < 2:
        remedy = "take a larger --batch-size, or neither mixup nor cutmix"
        raise InputRejectedError("a batch of one image cannot be mixed", remedy=remedy)


class Mixing:
    """Mixup and cutmix, timm's; the same for the same seed and step.

    Args:
        config: The run's settings.
        classes: Outputs of the network.
    """

    def __init__(self, config: TrainingConfig, classes: int) -> None:
        from timm.data import Mixup

        self._seed, self._config = config.seed, config
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
        check_mixing(self._config, len(images))
        even = len(images) // 2 * 2
        # timm draws from numpy's global generator, and mixes in place.
        with preserved():
            seed(self._seed, "mixing", *place)
            mixed: tuple[Tensor, Tensor] = self._mix(images[:even].clone(), labels[:even])
        return mixed
