"""The architecture of the second bundled checkpoint: VGG-16 at a quarter of its width, for CIFAR-10.

It is torchvision's own ``VGG`` class with configuration "D": 13 convolutions and 3 dense layers, the module names and
checkpoint keys of ``vgg16``; only the widths are smaller.
"""

from typing import Any

import torch
from torch import nn
from torchvision.models.vgg import VGG, cfgs, make_layers

__all__ = ["PREPROCESSING", "cifar10_vgg16"]

PREPROCESSING: dict[str, Any] = {
    "input_size": (3, 32, 32),
    "mean": (0.491, 0.482, 0.447),
    "std": (0.247, 0.244, 0.262),
    "interpolation": "bilinear",
    "crop_pct": 1.0,
}
"""How an image becomes an input, in timm's words; mean and std are those of CIFAR-10's training images."""

SHARE = 4
FEATURES: list[str | int] = [width if isinstance(width, str) else width // SHARE for width in cfgs["D"]]
# As wide as the last convolution: 512 in the VGG-16 that is usual for 32 x 32 images, and here a quarter of that.
DENSE_WIDTH = 512 // SHARE
CLASSES = 10


def cifar10_vgg16(num_classes: int = CLASSES) -> VGG:
    """Build the network, its weights drawn after He et al. (2015) as torchvision draws those of a VGG's convolutions.

    Args:
        num_classes: Outputs.

    Returns:
        A VGG with 13 convolutions and 3 dense layers and no norm: (N, 3, 32, 32) -> logits (N, num_classes).
    """
    features = make_layers(FEATURES)
    # The class makes a head of 4096-wide layers whatever its features are: on the meta device that costs nothing, and
    # the head is replaced below.
    with torch.device("meta"):
        model = VGG(features, num_classes=num_classes)
    # Five poolings leave one pixel of 32: the 7 x 7 pooling of the class would only repeat it.
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(
        nn.Linear(DENSE_WIDTH, DENSE_WIDTH),
        nn.ReLU(inplace=True),
        nn.Dropout(p=0.5),
        nn.Linear(DENSE_WIDTH, DENSE_WIDTH),
        nn.ReLU(inplace=True),
        nn.Dropout(p=0.5),
        nn.Linear(DENSE_WIDTH, num_classes),
    )
    # torchvision's rule for dense layers, a standard deviation of 0.01, is made for 4096 inputs: with 128 the signal
    # would fade, and the network not learn at all.
    for module in model.classifier:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return model
