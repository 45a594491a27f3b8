"""The networks that are fine-tuned, trained without norms, each with its images.

Two are from the folder of real networks ($BNRETROFIT_ASSETS, or shared/assets beside the checkout), and so are their
images; the other two are bundled with the project, and so are the digits.
"""

import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision import models

from benchmarks.step_cost import ROOT, asset_network
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training.heads import replace_head
from bnretrofit.zoo import ModelName
from bnretrofit.zoo.factories import bundled_model

__all__ = ["IMAGENET", "SUBJECTS", "Subject", "squeezenet_trained", "unpacked"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A network and what it learns from.

    Attributes:
        network: Makes it, trained, for a seed: a new head depends on that.
        fresh: Makes its architecture, as its library has it.
        archive: Of the images; None for the bundled digits.
        train: Folder in it to train on.
        val: Folder in it to judge with.
        preprocessing: How an image becomes an input.
        batch_size: Images of a step.
    """

    network: Callable[[int], nn.Module]
    fresh: Callable[[], nn.Module]
    archive: str | None
    train: str
    val: str
    preprocessing: Preprocessing
    batch_size: int


def assets() -> Path:
    """The folder of real networks and images."""
    return Path(os.environ.get("BNRETROFIT_ASSETS", ROOT.parent / "shared" / "assets"))


@contextmanager
def unpacked(subject: Subject, folder: Path | None) -> Iterator[Path]:
    """The images, in a folder of their own while it lasts unless one is given."""
    if folder is not None or subject.archive is None:
        yield ROOT / "checkpoints" / "digits" if folder is None else folder
        return
    with tempfile.TemporaryDirectory(prefix=subject.archive) as made:
        with tarfile.open(assets() / "data" / f"{subject.archive}.tar.gz") as tar:
            tar.extractall(made, filter="data")
        yield Path(made)


def vgg6(_seed: int) -> nn.Module:
    """Six convolutions and two dense layers, which know CIFAR-10 already."""
    network = asset_network("vgg6_cifar10")
    network.load_state_dict(load_file(assets() / "weights" / "vgg6_cifar10.safetensors"))
    return network.eval()


def squeezenet(seed: int) -> nn.Module:
    """SqueezeNet 1.1 of ImageNet, with a new head for ten classes."""
    network = squeezenet_trained()
    replace_head(network, torch.zeros(1, 3, 224, 224), 10, seed)
    return network


def squeezenet_trained() -> nn.Module:
    """SqueezeNet 1.1 of ImageNet."""
    network: nn.Module = models.squeezenet1_1()
    network.load_state_dict(load_file(assets() / "weights" / "squeezenet1_1.safetensors"))
    return network.eval()


def vgg16(_seed: int) -> nn.Module:
    """VGG-16 at a quarter of its width, which knows CIFAR-10 already."""
    return bundled_model(CIFAR10_VGG16, "DEFAULT", {})[0].eval()


def vgg11(_seed: int) -> nn.Module:
    """A slim VGG-11 that knows digits already."""
    return bundled_model(DIGITS_VGG11, "DEFAULT", {})[0].eval()


CIFAR10_VGG16 = ModelName("bnretrofit", "cifar10_vgg16")
DIGITS_VGG11 = ModelName("bnretrofit", "digits_vgg11")
IMAGENET = Preprocessing((3, 224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SUBJECTS = {
    "vgg6_cifar10": Subject(
        vgg6, lambda: asset_network("vgg6_cifar10"), "cifar10", "train", "test", Preprocessing((3, 32, 32)), 128
    ),
    "squeezenet1_1": Subject(
        squeezenet, lambda: models.squeezenet1_1(num_classes=10), "imagenette", "train", "val", IMAGENET, 32
    ),
    "cifar10_vgg16": Subject(
        vgg16,
        lambda: bundled_model(CIFAR10_VGG16, None, {})[0],
        "cifar10",
        "train",
        "test",
        Preprocessing((3, 32, 32), (0.491, 0.482, 0.447), (0.247, 0.244, 0.262)),
        128,
    ),
    "digits_vgg11": Subject(
        vgg11,
        lambda: bundled_model(DIGITS_VGG11, None, {})[0],
        None,
        "train",
        "val",
        Preprocessing((3, 32, 32), (0.306, 0.306, 0.306), (0.324, 0.324, 0.324)),
        32,
    ),
}
