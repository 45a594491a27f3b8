"""Real images as batches, read as the assets' README says, and the networks in its weights folder."""

from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
IMAGENETTE_CLASSES = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)


def files_of(folder: Path, count: int) -> tuple[list[Path], list[int]]:
    """`count` images, as many of each class as of any other, and the number of each one's class."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    each = count // len(classes)
    files = [sorted(path.iterdir())[:each] for path in classes]
    return [file for of_class in files for file in of_class], [
        label for label in range(len(classes)) for _ in range(each)
    ]


def batches_of(files: list[Path], size: int, *, imagenet: bool) -> Iterator[Tensor]:
    """Batches of RGB / 255, normalised for ImageNet if asked."""
    for start in range(0, len(files), size):
        pixels = [np.array(Image.open(file).convert("RGB")) for file in files[start : start + size]]
        batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        yield (batch - IMAGENET_MEAN) / IMAGENET_STD if imagenet else batch


def network(assets: Path, name: str) -> nn.Module:
    """A network of nets.py with its trained weights, in eval mode."""
    spec = util.spec_from_file_location("nets", assets / "nets.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(assets / "nets.py")
    nets = util.module_from_spec(spec)
    spec.loader.exec_module(nets)
    return loaded(nets.FACTORIES[name](), assets, name)


def loaded(model: Any, assets: Path, name: str) -> nn.Module:
    """A model with the weights of that name, loaded strictly, in eval mode."""
    model.load_state_dict(load_file(assets / "weights" / f"{name}.safetensors"), strict=True)
    evaluated: nn.Module = model.eval()
    return evaluated


def answers(model: nn.Module, batches: Iterator[Tensor]) -> Tensor:
    """Outputs on all batches, joined."""
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in batches])
