"""The networks into which norms are inserted, all trained or initialised without, and the images for each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from benchmarks.finetune_subjects import IMAGENET, SUBJECTS, squeezenet_trained, unpacked
from bnretrofit.data import ImageBatches, ImageFiles, find_images
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.zoo import ModelName
from bnretrofit.zoo.factories import bundled_folder, bundled_model

__all__ = ["NETWORKS", "Images", "Network", "images_of"]

IMAGENETTE = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
"""What ImageNet calls imagenette's ten classes, in the order of its folders."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network and its images.

    Attributes:
        build: Makes it, in eval mode, with the same tensors each time.
        subject: Whose archive the images are in (a key of SUBJECTS); None: those that are bundled.
        train: Folder of the images that statistics are measured on.
        held_out: Folder of those that outputs are compared on.
        preprocessing: How an image becomes an input.
        measured: Images that statistics are measured on.
        compared: Images that outputs are compared on.
        batch_size: Images of a batch.
        classes: What output stands for each class of the folder; None where the network was not trained on them.
    """

    build: Callable[[], nn.Module]
    subject: str | None
    train: str
    held_out: str
    preprocessing: Preprocessing
    measured: int
    compared: int
    batch_size: int
    classes: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Images:
    """Batches: `train` to measure statistics on, `held_out` to compare outputs on, of which labels may be known."""

    train: list[Tensor]
    held_out: list[Tensor]
    labels: Tensor | None


def images_of(network: Network, folder: Path | None) -> Images:
    """Decode a network's images.

    Args:
        network: The network.
        folder: Where its archive is unpacked; None to unpack it for as long as that takes.
    """
    with archive(network, folder) as root:
        train = shuffled(find_images(root / network.train).sampled(network.measured, 0))
        held_out = find_images(root / network.held_out).sampled(network.compared, 0)
        batches, others = (
            list(ImageBatches(files, network.preprocessing, network.batch_size)) for files in (train, held_out)
        )
    labels = None
    if network.classes is not None:
        labels = torch.tensor([network.classes[label] for label in held_out.labels])
    return Images(batches, others, labels)


def shuffled(files: ImageFiles) -> ImageFiles:
    """In an order that no class has to itself, as training shows them: running averages forget what came first."""
    generator = torch.Generator().manual_seed(0)
    return files.taken(torch.randperm(len(files.paths), generator=generator).tolist())


@contextmanager
def archive(network: Network, folder: Path | None) -> Iterator[Path]:
    if network.subject is None:
        yield bundled_folder()
        return
    with unpacked(SUBJECTS[network.subject], folder) as root:
        yield root


def digits() -> nn.Module:
    return bundled_model(DIGITS, "DEFAULT", {})[0].eval()


def vgg11() -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = models.vgg11(weights=None)
    return network.eval()


DIGITS = ModelName("bnretrofit", "digits_vgg11")
TEN = tuple(range(10))
NETWORKS = {
    "squeezenet1_1": Network(
        squeezenet_trained, "squeezenet1_1", "train", "val", IMAGENET, 64, 100, 32, classes=IMAGENETTE
    ),
    "vgg6_cifar10": Network(
        lambda: SUBJECTS["vgg6_cifar10"].network(0),
        "vgg6_cifar10",
        "train",
        "test",
        SUBJECTS["vgg6_cifar10"].preprocessing,
        256,
        1000,
        64,
        classes=TEN,
    ),
    "digits_vgg11": Network(
        digits,
        None,
        "digits/train",
        "digits/val",
        bundled_model(DIGITS, None, {})[1],
        200,
        360,
        64,
        classes=TEN,
    ),
    "vgg11": Network(vgg11, "squeezenet1_1", "train", "val", IMAGENET, 16, 16, 8, classes=None),
}
