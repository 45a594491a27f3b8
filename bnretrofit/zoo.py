"""Names -> models and their preprocessing. timm and torchvision are imported when a name needs them."""

import difflib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from bnretrofit.choices import nearest
from bnretrofit.errors import InputRejectedError, RetrofitError, UsageError
from bnretrofit.preprocessing import Preprocessing

__all__ = ["ModelName", "build", "bundled_folder", "imagenet_classes", "parse_model", "similar_models"]

LIBRARIES = ("torchvision", "timm", "hf-hub", "local-dir", "bnretrofit")
BUNDLED = ("digits_vgg11",)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model by its name.

    Attributes:
        library: "torchvision", "timm", "hf-hub", "local-dir", "bnretrofit" or "file".
        name: The name there; for a file "PATH.py:FACTORY".
        note: What was assumed, to be told to the user; None if nothing.
    """

    library: str
    name: str
    note: str | None = None

    def __str__(self) -> str:
        return self.name if self.library == "file" else f"{self.library}:{self.name}"


@dataclass(frozen=True, slots=True)
class Built:
    """A model as its factory makes it, and the preprocessing its library gives for it."""

    model: nn.Module
    preprocessing: Preprocessing


def parse_model(text: str) -> ModelName:
    """Read a model's name as users write it.

    Args:
        text: `torchvision:vgg16`, `timm:vgg16.tv_in1k`, `hf-hub:org/name@rev`, `local-dir:DIR`, `file.py:factory`,
            `bnretrofit:digits_vgg11`, or a bare name, for which torchvision is asked before timm.

    Returns:
        The name.

    Raises:
        UsageError: No library has the name; the message offers the nearest ones.
    """
    prefix, _, rest = text.partition(":")
    if prefix.endswith(".py") and rest:
        return ModelName("file", text)
    if prefix in LIBRARIES and rest:
        _check_name(prefix, rest)
        return ModelName(prefix, rest)
    if rest:
        raise UsageError(
            f"unknown kind of model '{prefix}:'", remedy=f"write one of {', '.join(LIBRARIES)}, or FILE.py:FACTORY"
        )
    for library in ("torchvision", "timm"):
        if _known(library, text):
            other = (
                " (timm has one too: timm:" + text + ")" if library == "torchvision" and _known("timm", text) else ""
            )
            return ModelName(library, text, note=f"'{text}' was taken as {library}:{text}{other}")
    names = [f"{library}:{name}" for library in ("torchvision", "timm") for name in _names(library)]
    raise UsageError(f"no model is called '{text}'", remedy=_nearest_model(text, names))


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
        "bnretrofit": _bundled,
        "file": _from_file,
    }[model.library]
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if model.library == "file":
        options["trust_code"] = trust_code
    try:
        with warnings.catch_warnings(), torch.device(device):
            warnings.simplefilter("ignore")
            made, preprocessing = factory(model, weights, options)
    except RetrofitError:
        raise
    except Exception as error:
        if device == "meta":
            return build(model, weights=weights, num_classes=num_classes, trust_code=trust_code)
        raise InputRejectedError(f"{model} could not be built", why=f"{type(error).__name__}: {error}") from error
    return Built(made.eval(), preprocessing)


def bundled_folder() -> Path:
    """The folder of the bundled checkpoint and its images.

    Raises:
        InputRejectedError: The installation lacks it.
    """
    found = importlib.util.find_spec("bnretrofit_checkpoints")
    if found is None or not found.submodule_search_locations:
        raise InputRejectedError(
            "the bundled checkpoint is not installed", remedy="install bnretrofit as a package: pip install ."
        )
    return Path(next(iter(found.submodule_search_locations)))


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
    stem = model.name.rpartition("/")[2].split(".")[0].split("_")[0].rstrip("0123456789")
    names = [ModelName("torchvision", name) for name in _names("torchvision")]
    names += [ModelName("timm", name) for name in _names("timm") if name.startswith(stem)][:40]
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


def _names(library: str) -> list[str]:
    if library == "torchvision":
        import torchvision

        return list(torchvision.models.list_models(module=torchvision.models))
    import timm

    return list(timm.list_models())


def _known(library: str, name: str) -> bool:
    return (name.split(".", maxsplit=1)[0] if library == "timm" else name) in _every_name(library)


def _every_name(library: str) -> list[str]:
    if library == "torchvision":
        import torchvision

        return list(torchvision.models.list_models())
    return _names(library)


def _check_name(library: str, name: str) -> None:
    if library == "bnretrofit" and name not in BUNDLED:
        raise UsageError(f"no bundled model is called '{name}'", remedy=f"choose from {', '.join(BUNDLED)}")
    if library in ("torchvision", "timm") and not _known(library, name):
        raise UsageError(f"{library} has no model '{name}'", remedy=_nearest_model(name, _every_name(library)))
    if library == "local-dir" and not Path(name).is_dir():
        raise UsageError("the folder of local-dir: does not exist", where=name)


def _nearest_model(name: str, names: list[str]) -> str:
    return nearest(name, names) or "bnretrofit plan takes torchvision:NAME, timm:NAME or FILE.py:FACTORY"


def _torchvision(model: ModelName, weights: str | None, options: dict[str, Any]) -> tuple[nn.Module, Preprocessing]:
    from torchvision import models

    enum = models.get_model_weights(model.name)
    if weights is not None and weights != "DEFAULT" and weights not in enum.__members__:
        raise UsageError(
            f"torchvision has no weights '{weights}' for {model.name}", remedy=nearest(weights, list(enum.__members__))
        )
    chosen = None if weights is None else enum[weights] if weights in enum.__members__ else enum.DEFAULT
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


def _bundled(model: ModelName, weights: str | None, options: dict[str, Any]) -> tuple[nn.Module, Preprocessing]:
    module = _imported(bundled_folder() / f"{model.name}.py")
    built = getattr(module, model.name)(**options)
    if weights is not None:
        from safetensors.torch import load_file

        built.load_state_dict(load_file(bundled_folder() / f"{model.name}.safetensors"))
    return built, Preprocessing(**module.PREPROCESSING)


def _from_file(model: ModelName, weights: str | None, options: dict[str, Any]) -> tuple[nn.Module, Preprocessing]:
    file, _, factory = model.name.rpartition(":")
    if not options.pop("trust_code"):
        raise UsageError(f"{file} is Python code, and would be run", remedy="read it, then pass --trust-code")
    if weights is not None:
        raise UsageError("a factory of your own has no library weights", remedy="pass a checkpoint")
    if not Path(file).is_file():
        raise UsageError("the file of the factory does not exist", where=file)
    module = _imported(Path(file))
    found: Callable[..., Any] | None = getattr(module, factory, None)
    if not callable(found):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise UsageError(f"{file} has no factory '{factory}'", remedy=nearest(factory, names))
    built = found(**options)
    if not isinstance(built, nn.Module):
        raise InputRejectedError(f"{model} returned a {type(built).__name__}, not an nn.Module")
    return built, Preprocessing((_image_channels(built), None, None))


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bnretrofit_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError("the file cannot be imported", where=str(path))
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a class's module up by name.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputRejectedError(
            "the file cannot be run", where=str(path), why=f"{type(error).__name__}: {error}"
        ) from error
    return module


def _image_channels(model: nn.Module) -> int:
    """Channels of the images a model takes: those of its first convolution, if that says grey; else RGB."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return 1 if first is not None and first.in_channels == 1 else 3


def imagenet_classes() -> dict[str, int]:
    """WordNet id -> index among ImageNet's 1,000 classes, as timm lists them."""
    from timm.data.imagenet_info import ImageNetInfo

    return {name: index for index, name in enumerate(ImageNetInfo().label_names())}
