"""Models made by a function in a Python file: the user's own, and the bundled one's."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from bnretrofit.choices import nearest
from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.zoo.names import ModelName

__all__ = ["bundled_folder", "bundled_model", "model_from_file"]


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


def bundled_model(model: ModelName, weights: str | None, options: dict[str, Any]) -> tuple[nn.Module, Preprocessing]:
    """A bundled model, by the factory that is installed beside its checkpoint."""
    module = _imported(bundled_folder() / f"{model.name}.py")
    built = getattr(module, model.name)(**options)
    if weights is not None:
        from safetensors.torch import load_file

        built.load_state_dict(load_file(bundled_folder() / f"{model.name}.safetensors"))
    return built, Preprocessing(**module.PREPROCESSING)


def model_from_file(model: ModelName, weights: str | None, options: dict[str, Any]) -> tuple[nn.Module, Preprocessing]:
    """The model that a factory in a Python file makes."""
    file, _, factory = model.name.rpartition(":")
    if not options.pop("trust_code"):
        raise UsageError(f"{file} is Python code, and would be run", remedy="read it, then pass --trust-code")
    if weights is not None:
        raise UsageError("a factory of your own has no library weights", remedy="pass a checkpoint")
    if not Path(file).is_file():
        remedy = f"name it where it is, with -m FOLDER/{Path(file).name}:{factory}"
        raise UsageError("the file of the factory does not exist", where=file, remedy=remedy)
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
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputRejectedError("the file cannot be run", where=str(path), why=why) from error
    return module


def _image_channels(model: nn.Module) -> int:
    """Channels of the images a model takes: those of its first convolution, if that says grey; else RGB."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return 1 if first is not None and first.in_channels == 1 else 3
