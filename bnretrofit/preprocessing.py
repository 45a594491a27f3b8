"""How an image becomes a model's input, as data that travels with a checkpoint."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bnretrofit.errors import InputRejectedError, UsageError

__all__ = ["Preprocessing"]

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resize so that a centre crop of `crop_pct` is the input, scale to 0 … 1, subtract mean, divide by std.

    Attributes:
        input_size: (channels, height, width); height and width None: images at their stored size.
        mean: Per channel, of values 0 to 1.
        std: Per channel.
        interpolation: A name of PIL's.
        crop_pct: Share of the resized image that the crop keeps.
        crop_mode: As timm spells it: "center", "squash", "border".
        stored_size: Where images are used at their stored size: height and width of those that were used, for examples
            where no image is at hand. It tells no two ways of preparing images apart.
    """

    input_size: tuple[int, int | None, int | None]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    stored_size: tuple[int, int] | None = dataclasses.field(default=None, compare=False)

    @classmethod
    def from_json(cls, document: Any) -> "Preprocessing":
        """What `to_json` wrote.

        Raises:
            InputRejectedError: The document is of another form.
        """
        try:
            fields: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
            }
            made = cls(**fields)
            _check_size("input_size", made.input_size, (False, True, True))
            if made.stored_size is not None:
                _check_size("stored_size", made.stored_size, (False, False))
            if not all(math.isfinite(value) for value in (*made.mean, *made.std, made.crop_pct)):
                raise ValueError("a number is not finite")
        except (AttributeError, TypeError, ValueError) as error:
            raise InputRejectedError("the stored preprocessing is damaged", why=str(error)) from error
        return made

    def to_json(self) -> dict[str, Any]:
        """As a JSON document; of a size that was not seen it says nothing, as earlier versions do."""
        document = dataclasses.asdict(self)
        return {name: value for name, value in document.items() if name != "stored_size" or value is not None}

    def seen(self, images: Tensor) -> "Preprocessing":
        """The same, with the size of the images that it was used for where it does not say one.

        Args:
            images: (N, C, H, W), prepared.
        """
        if self.input_size[1] is not None:
            return self
        height, width = images.shape[-2:]
        return dataclasses.replace(self, stored_size=(height, width))

    def overridden(
        self,
        *,
        img_size: int | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        interpolation: str | None = None,
        crop_pct: float | None = None,
    ) -> "Preprocessing":
        """The same with what a user asked for instead.

        Raises:
            UsageError: A value is out of range, as many as there are channels were not given, or it is of a resize and
                nothing is resized.
        """
        channels = self.input_size[0]
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) not in (1, channels):
                count = "1 value" if channels == 1 else f"1 or {channels} values"
                raise UsageError(f"--{name} takes {count}", why=f"{len(values)} were given")
            if values is not None and not all(math.isfinite(value) for value in values):
                raise UsageError(f"--{name} must be finite")
        if std is not None and min(std) <= 0:
            raise UsageError("--std must be positive")
        if crop_pct is not None and not 0 < crop_pct <= 1:
            raise UsageError("--crop-pct must be above 0 and at most 1")
        if img_size is not None and img_size < 1:
            raise UsageError("--img-size must be at least 1")
        changes: dict[str, Any] = {
            "input_size": None if img_size is None else (channels, img_size, img_size),
            "mean": mean,
            "std": std,
            "interpolation": interpolation,
            "crop_pct": crop_pct,
        }
        changed = dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})
        for option, value in (("--crop-pct", crop_pct), ("--interpolation", interpolation)):
            if value is not None and None in changed.input_size:
                raise UsageError(
                    f"{option} needs --img-size",
                    why="the images are used at their stored size, and nothing is resized",
                    remedy=f"pass --img-size, or leave out {option}",
                )
        return changed

    def __str__(self) -> str:
        channels, height, width = self.input_size
        size = (
            "stored size" if height is None else f"{height} x {width} px, crop {self.crop_pct:g}, {self.interpolation}"
        )
        colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
        return f"{colour} / 255, {size}, mean {_values(self.mean)}, std {_values(self.std)}"


def _check_size(name: str, size: Any, may_be_none: tuple[bool, ...]) -> None:
    """Refuse what is no size.

    Args:
        name: Of the field.
        size: What was stored.
        may_be_none: As many as it has entries: whether one may be left open.

    Raises:
        ValueError: It is none; this names the field.
    """
    if not isinstance(size, tuple) or len(size) != len(may_be_none):
        raise ValueError(f"{name} is {size!r}, and it has {len(may_be_none)} entries")
    for each, may in zip(size, may_be_none, strict=True):
        whole = isinstance(each, int) and not isinstance(each, bool) and each >= 1
        if not (whole or (each is None and may)):
            raise ValueError(f"{name} holds {each!r}, which is no whole number from 1 on")


def _values(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in (values if len(set(values)) > 1 else values[:1]))
