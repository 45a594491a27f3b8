"""What users write for a model -> which model it is."""

from dataclasses import dataclass
from pathlib import Path

from bnretrofit.choices import nearest
from bnretrofit.errors import UsageError

__all__ = ["ModelName", "imagenet_classes", "names_in", "parse_model", "place_in"]

LIBRARIES = ("torchvision", "timm", "hf-hub", "local-dir", "bnretrofit")
BUNDLED = ("digits_vgg11", "cifar10_vgg16")


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
    names = [f"{library}:{name}" for library in ("torchvision", "timm") for name in names_in(library)]
    raise UsageError(f"no model is called '{text}'", remedy=_nearest_model(text, names))


def place_in(text: str) -> Path | None:
    """The file or folder that a model's name is of: `file.py` of a factory, DIR of `local-dir:DIR`; None for others."""
    prefix, _, rest = text.partition(":")
    if not rest:
        return None
    return Path(prefix) if prefix.endswith(".py") else Path(rest) if prefix == "local-dir" else None


def imagenet_classes() -> dict[str, int]:
    """WordNet id -> index among ImageNet's 1,000 classes, as timm lists them."""
    from timm.data.imagenet_info import ImageNetInfo

    return {name: index for index, name in enumerate(ImageNetInfo().label_names())}


def names_in(library: str) -> list[str]:
    """The models of a library: torchvision's classifiers, or all of timm's."""
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
    return names_in(library)


def _check_name(library: str, name: str) -> None:
    if library == "bnretrofit" and name not in BUNDLED:
        raise UsageError(f"no bundled model is called '{name}'", remedy=f"choose from {', '.join(BUNDLED)}")
    if library in ("torchvision", "timm") and not _known(library, name):
        raise UsageError(f"{library} has no model '{name}'", remedy=_nearest_model(name, _every_name(library)))
    if library == "local-dir" and not Path(name).is_dir():
        raise UsageError("the folder of local-dir: does not exist", where=name)


def _nearest_model(name: str, names: list[str]) -> str:
    return nearest(name, names) or "write torchvision:NAME, timm:NAME or FILE.py:FACTORY"
