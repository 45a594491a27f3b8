"""A model of timm as the folder that `timm.create_model("local-dir:…")` opens."""

from pathlib import Path
from typing import Any

from torch import nn

from bnretrofit.errors import InputRejectedError
from bnretrofit.preprocessing import Preprocessing

__all__ = ["open_timm_folder", "save_timm_folder"]


def save_timm_folder(folder: Path, model: nn.Module, preprocessing: Preprocessing) -> None:
    """Write `config.json` and `model.safetensors` as timm writes them.

    Args:
        folder: Made if it is not there.
        model: One of timm's own, with its tensors.
        preprocessing: Of its images, which the configuration then names.

    Raises:
        InputRejectedError: The model does not bear timm's configuration.
    """
    from timm.models import save_for_hf

    known: Any = getattr(model, "pretrained_cfg", None)
    if known is None:
        raise InputRejectedError(f"the {type(model).__name__} has no configuration of timm's")
    channels, height, width = preprocessing.input_size
    size = {} if height is None or width is None else {"input_size": (channels, height, width)}
    model.pretrained_cfg = {  # type: ignore[assignment]
        **dict(known),
        **size,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop_pct,
        "crop_mode": preprocessing.crop_mode,
    }
    save_for_hf(model, str(folder), safe_serialization=True)


def open_timm_folder(folder: Path) -> nn.Module:
    """The model of a folder, as timm opens it, with its tensors."""
    import timm

    made: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return made.eval()
