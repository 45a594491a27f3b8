"""Train the bundled checkpoint without BatchNorm, and write it with its images.

Run it as ``python checkpoints/train_digits_vgg11.py``. It writes ``digits_vgg11.safetensors``, ``digits/train`` and
``digits/val`` beside this file, then prints the figures of the card. It needs scikit-learn, which ships the data, and
takes two minutes on two cores. Two runs on one machine write the same bytes.
"""

import hashlib
import math
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from digits_vgg11 import PREPROCESSING, digits_vgg11  # type: ignore[import-not-found]  # beside this script
from PIL import Image
from safetensors.torch import load_file, save
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torch.nn import functional
from torchvision.datasets import ImageFolder
from tqdm import tqdm

FOLDER = Path(__file__).resolve().parent
CHECKPOINT = FOLDER / "digits_vgg11.safetensors"
IMAGES = FOLDER / "digits"
SEED = 0
THREADS = 2  # the number of threads decides the order of sums, so it is part of the seed
EPOCHS = 60
BATCH_SIZE = 64
PEAK_LR = 2e-3
CALIBRATION_PER_CLASS = 20

TRANSFORM = create_transform(
    PREPROCESSING["input_size"],
    is_training=False,
    interpolation=PREPROCESSING["interpolation"],
    mean=PREPROCESSING["mean"],
    std=PREPROCESSING["std"],
    crop_pct=PREPROCESSING["crop_pct"],
)


def write_image(levels: np.ndarray, path: Path) -> None:
    """Write one digit as an 8 x 8 greyscale PNG.

    Args:
        levels: (8, 8), ink from 0 to 16; a pixel is level x 255 / 16, rounded to the nearest, halves up.
        path: the file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.floor(levels * 255 / 16 + 0.5).astype(np.uint8)
    Image.fromarray(pixels).save(path, optimize=True)


def split() -> tuple[np.ndarray, np.ndarray]:
    """The fixed split: sorted positions in ``load_digits`` of the 80 % to train on and the 20 % held out."""
    labels = load_digits().target
    train, held_out = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=SEED)
    return np.sort(train), np.sort(held_out)


def write_images(positions: np.ndarray, folder: Path, per_class: int | None = None) -> None:
    """Write digits as ``folder/<class>/<position>.png``, at most the first ``per_class`` of each class."""
    digits = load_digits()
    written = np.zeros(10, dtype=int)
    for position in positions:
        label = digits.target[position]
        if per_class is None or written[label] < per_class:
            write_image(digits.images[position], folder / str(label) / f"{position:04d}.png")
            written[label] += 1


def read_images(folder: Path) -> tuple[Tensor, Tensor]:
    """Read a folder of PNGs as a user's command does: inputs (N, 3, 32, 32) and labels (N,)."""
    pairs = list(ImageFolder(str(folder), transform=TRANSFORM))
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by up to 12 degrees, scale by up to 10 % and shift by up to 3 pixels, each image on its own.

    Args:
        images: normalised inputs (N, 3, 32, 32).
        generator: where the random numbers come from.
    """
    draws = torch.rand(4, len(images), generator=generator) * 2 - 1
    angle, scale = draws[0] * math.radians(12), 1 + 0.1 * draws[1]
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    # Half the width is 1 in the coordinates of affine_grid.
    shift_x, shift_y = draws[2:] * 3 / 16
    rows = torch.stack([cosine, -sine, shift_x, sine, cosine, shift_y], dim=1)
    grid = functional.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    # What moves in from outside must be paper, and grid_sample fills with 0, which is grey once normalised.
    paper = (-torch.tensor(PREPROCESSING["mean"]) / torch.tensor(PREPROCESSING["std"])).view(3, 1, 1)
    return functional.grid_sample(images - paper, grid, align_corners=False) + paper


def train(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Train in place: AdamW, one cycle of the learning rate, cross-entropy with a little label smoothing."""
    generator = torch.Generator().manual_seed(SEED)
    batches = math.ceil(len(images) / BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=EPOCHS * batches)
    model.train()
    for _ in tqdm(range(EPOCHS), desc="train", unit="epoch"):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            logits = model(augment(images[rows], generator))
            loss = functional.cross_entropy(logits, labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> str:
    """The share of right answers, as the card writes it."""
    model.eval()
    right = int((model(images).argmax(dim=1) == labels).sum())
    return f"{right} of {len(labels)} ({right / len(labels):.2%})"


def main() -> None:
    """Split, write the images, train, write the checkpoint, and measure what was written."""
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)

    training, held_out = split()
    shutil.rmtree(IMAGES, ignore_errors=True)
    write_images(training, IMAGES / "train", per_class=CALIBRATION_PER_CLASS)
    write_images(held_out, IMAGES / "val")
    with TemporaryDirectory() as folder:
        write_images(training, Path(folder))
        train_images, train_labels = read_images(Path(folder))

    model = digits_vgg11()
    train(model, train_images, train_labels)
    # save_file would make a file that only its owner can read.
    CHECKPOINT.write_bytes(save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))

    written = digits_vgg11()
    written.load_state_dict(load_file(CHECKPOINT), strict=True)
    print(f"held-out accuracy  {accuracy(written, *read_images(IMAGES / 'val'))}")
    print(f"training accuracy  {accuracy(written, train_images, train_labels)}")
    print(f"parameters         {sum(parameter.numel() for parameter in written.parameters()):,}")
    print(f"bytes              {CHECKPOINT.stat().st_size:,}")
    print(f"sha256             {hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
