"""The architecture of the bundled checkpoint: torchvision's VGG-11, slim, for 32 x 32 images of ten digits.

It is torchvision's own ``VGG`` class with the usual order of layers, so whatever holds for ``vgg11`` (module names, the
place of every ReLU and pooling, the checkpoint's keys) holds here too: only the widths are smaller.
"""

from typing import Any

import torch
from torch import nn
from torchvision.models.vgg import VGG, make_layers

__all__ = ["PREPROCESSING", "digits_vgg11"]

PREPROCESSING: dict[str, Any] = {
    "input_size": (3, 32, 32),
    "mean": (0.306, 0.306, 0.306),
    "std": (0.324, 0.324, 0.324),
    "interpolation": "bilinear",
    "crop_pct": 1.0,
}
"""How an image becomes an input, in timm's words; mean and std are those of the training split, per pixel of 0 to 1."""

# torchvision's configuration "A" has 64, 128, 256, 256 and four times 512 channels.
FEATURES: list[str | int] = [16, "M", 32, "M", 64, 64, "M", 96, 96, "M", 96, 96, "M"]
DENSE_WIDTH = 96
CLASSES = 10


def digits_vgg11(num_classes: int = CLASSES) -> VGG:
    """Build the network, initialised as torchvision initialises a VGG.

    Args:
        num_classes: Outputs.

    Returns:
        A VGG with 8 convolutions and 3 dense layers and no norm: (N, 3, 32, 32) -> logits (N, num_classes).
    """
    features = make_layers(FEATURES)
    # The class makes a head of 4096-wide layers, 120 million weights, whatever its features are: on the meta device
    # that costs nothing, and the head is replaced below.
    with torch.device("meta"):
        model = VGG(features, num_classes=num_classes)
    # Five poolings leave one pixel of 32: the 7 x 7 pooling of the class would only repeat it.
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(
        nn.Linear(int(FEATURES[-2]), DENSE_WIDTH),
        nn.ReLU(inplace=True),
        nn.Dropout(p=0.5),
        nn.Linear(DENSE_WIDTH, DENSE_WIDTH),
        nn.ReLU(inplace=True),
        nn.Dropout(p=0.5),
        nn.Linear(DENSE_WIDTH, num_classes),
    )
    # The constructor has initialised the convolutions; this is its rule for dense layers, for the new ones.
    for module in model.classifier:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            nn.init.zeros_(module.bias)
    return model
