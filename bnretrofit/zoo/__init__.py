"""Names -> models and their preprocessing. timm and torchvision are imported when a name needs them."""

from bnretrofit.zoo.building import Built, build
from bnretrofit.zoo.factories import bundled_folder
from bnretrofit.zoo.names import ModelName, imagenet_classes, parse_model, place_in
from bnretrofit.zoo.similar import similar_models

__all__ = [
    "Built",
    "ModelName",
    "build",
    "bundled_folder",
    "imagenet_classes",
    "parse_model",
    "place_in",
    "similar_models",
]
