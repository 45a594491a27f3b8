"""Train the bundled VGG-16 without BatchNorm on CIFAR-10.

    python checkpoints/train_cifar10_vgg16.py IMAGES

IMAGES has a folder ``train`` and a folder ``test``, each with a folder of images per class. The script writes
``cifar10_vgg16.safetensors`` beside itself, then prints the figures of the card. It takes 75 minutes on one core.
Two runs on one machine write the same bytes.
"""

import hashlib
import sys
from contextlib import closing
from pathlib import Path

import torch
from cifar10_vgg16 import PREPROCESSING, cifar10_vgg16  # type: ignore[import-not-found]  # beside this script
from safetensors.torch import save

from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training import TrainingConfig, finetune_on
from bnretrofit.training.memory_keeper import MemoryKeeper
from bnretrofit.training_data import TrainingSource, open_training

CHECKPOINT = Path(__file__).resolve().parent / "cifar10_vgg16.safetensors"
SEED = 0
THREADS = 1  # the number of threads decides the order of sums, so it is part of the seed
CONFIG = TrainingConfig(epochs=20, opt="adamw", lr=1e-3, weight_decay=0.02, channels_last=True, seed=SEED)


def main(images: Path) -> None:
    """Train, write the checkpoint and print the card's figures."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    model = cifar10_vgg16()
    source = TrainingSource(
        str(images / "train"),
        Preprocessing(**PREPROCESSING),
        val=str(images / "test"),
        seed=SEED,
        batch_size=128,
        workers=1,
    )
    keeper = MemoryKeeper()
    with closing(open_training(source)) as data:
        results = finetune_on(model, data, CONFIG, device="cpu", keeper=keeper)
    for epoch in results.history.epochs:
        print(epoch)
    # The last epoch's, not the best one's: nothing is selected on the test images.
    print(f"test: {results.last.evaluation}")
    tensors = {name: tensor.contiguous() for name, tensor in keeper.kept["last"].tensors.items()}
    written = save(tensors)
    CHECKPOINT.write_bytes(written)
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    print(f"{len(written):,} bytes, sha256 {hashlib.sha256(written).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
