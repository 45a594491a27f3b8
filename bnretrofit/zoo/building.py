"""A model's name -> the model, and the preprocessing its library gives for it."""

import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import nn

from bnretrofit.choices import nearest
from bnretrofit.errors import InputRejectedError, RetrofitError, UsageError
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.zoo.factories import bundled_model, model_from_file
from bnretrofit.zoo.names import ModelName

__all__ = ["Built", "build"]


@dataclass(frozen=True, slots=True)
class Built:
    """A model as its factory makes it, and the preprocessing its library gives for it."""

    model: nn.Module
    preprocessing: Preprocessing


def build(
    model: ModelName,
    *,
    weights: str | None = None,
    num_classes: int | None = None,
    trust_code: bool = False,
    device: str = "cpu",
) -> Built:
    """Make a model.

    Args:
        model: Which.
        weights: The library's own pretrained weights: "DEFAULT", or an enum or tag name; None for none.
        num_classes: Outputs of the classifier, where it is not the library's usual number.
        trust_code: Permit running a Python file for its factory.
        device: "cpu", or "meta" for the architecture alone, without memory for its tensors.

    Returns:
        The model in eval mode, and its preprocessing.

    Raises:
        UsageError: The name, the weights or the factory do not exist, or code was not trusted.
        InputRejectedError: The factory or the download failed.
    """
    factory = {
        "torchvision": _torchvision,
        "timm": _timm,
        "hf-hub": _timm,
        "local-dir": _timm,
        "bnretrofit": bundled_model,
        "file": model_from_file,
    }[model.library]
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if model.library == "file":
        options["trust_code"] = trust_code
    try:
        # Factories and downloads may print: stdout is for results.
        with warnings.catch_warnings(), redirect_stdout(sys.stderr), torch.device(device):
            warnings.simplefilter("ignore")
            made, preprocessing = factory(model, weights, options)
    except RetrofitError:
        raise
    except (Exception, SystemExit) as error:
        if device == "meta":
            return build(model, weights=weights, num_classes=num_classes, trust_code=trust_code)
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputRejectedError(f"{model} could not be built", why=why) from error
    return Built(made.eval(), preprocessing)


def _torchvision(model: ModelName, weights: str | None, options: dict[str, Any]) -> tuple[nn.Module, Preprocessing]:
    from torchvision import models

    enum = models.get_model_weights(model.name)
    if weights is not None and weights != "DEFAULT" and weights not in enum.__members__:
        raise UsageError(
            f"torchvision has no weights '{weights}' for {model.name}", remedy=nearest(weights, list(enum.__members__))
        )
    chosen = None if weights is None else enum[weights] if weights in enum.__members__ else enum.DEFAULT
    if chosen is None and "weights_backbone" in signature(models.get_model_builder(model.name)).parameters:
        # Detectors and segmentation networks would download their backbone's weights otherwise.
        options = {**options, "weights_backbone": None}
    built = models.get_model(model.name, weights=chosen, **options)
    config = getattr((chosen or enum.DEFAULT).transforms, "keywords", {})
    crop = config.get("crop_size")
    if crop is None:
        return built, Preprocessing((3, 224, 224), *_imagenet())
    crop = crop[0] if isinstance(crop, (list, tuple)) else crop
    resize = config.get("resize_size", 256)
    resize = resize[0] if isinstance(resize, (list, tuple)) else resize
    interpolation = getattr(config.get("interpolation"), "value", "bilinear")
    mean, std = (tuple(config.get(name, default)) for name, default in zip(("mean", "std"), _imagenet(), strict=True))
    return built, Preprocessing((3, crop, crop), mean, std, interpolation, min(crop / resize, 1.0))


def _imagenet() -> tuple[tuple[float, ...], tuple[float, ...]]:
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def _timm(model: ModelName, weights: str | None, options: dict[str, Any]) -> tuple[nn.Module, Preprocessing]:
    import timm
    from timm.data.config import resolve_model_data_config

    name = model.name if model.library == "timm" else f"{model.library}:{model.name}"
    if weights not in (None, "DEFAULT"):
        name = f"{name.split('.')[0]}.{weights}"
    built = timm.create_model(name, pretrained=weights is not None, **options)
    config = resolve_model_data_config(built)
    return built, Preprocessing(
        tuple(config["input_size"]),
        tuple(config["mean"]),
        tuple(config["std"]),
        config["interpolation"],
        config["crop_pct"],
        config["crop_mode"],
    )
