"""What a user said of the images -> batches for a model."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnretrofit.data import ImageBatches, ImageFiles, find_images
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.zoo import imagenet_classes

__all__ = ["ImageChoice", "accuracy_labels", "batches_of", "notes_on", "record_of"]

# A header is read whole whenever its file is: of a thousand bad images it lists some, and says how many there were.
LISTED = 20


@dataclass(frozen=True, slots=True)
class ImageChoice:
    """What a user said of the images.

    Attributes:
        folder: The folder; None where a command can do without.
        batch_size: Images per batch.
        workers: Processes that decode.
        num_images: How many are used, drawn with `seed`; None for all.
        seed: Of the draw.
        max_bad_images: How many may be unreadable.
        files: Those of the folder's that are meant; None for all of them.
        img_size, mean, std, interpolation, crop_pct: Instead of the model's own preprocessing.
    """

    folder: Path | None
    batch_size: int = 32
    workers: int = 0
    num_images: int | None = None
    seed: int = 0
    max_bad_images: int = 0
    files: ImageFiles | None = None
    img_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None

    def found(self) -> ImageFiles:
        """The images, of which `num_images` are drawn.

        Raises:
            InputRejectedError: The folder holds none.
        """
        if self.files is not None:
            return self.files
        if self.folder is None:
            raise ValueError("no folder was chosen")
        return find_images(self.folder, self.max_bad_images)

    def preprocessing(self, given: Preprocessing) -> Preprocessing:
        """The model's preprocessing with what the user asked for instead."""
        return given.overridden(
            img_size=self.img_size,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
        )


def batches_of(choice: ImageChoice, preprocessing: Preprocessing, files: ImageFiles | None = None) -> ImageBatches:
    """The batches of a folder.

    Args:
        choice: The folder and how to read it.
        preprocessing: As it is to be used.
        files: Which of its images; None for those that `choice` draws.

    Raises:
        InputRejectedError: The folder holds no image.
    """
    if files is None:
        files = choice.found().sampled(choice.num_images, choice.seed)
    return ImageBatches(files, preprocessing, choice.batch_size, choice.workers, choice.max_bad_images)


def notes_on(batches: ImageBatches) -> tuple[str, ...]:
    """What a pass over the images has left out, to be told to the user."""
    left_out = _left_out(batches)
    if not left_out:
        return ()
    shown = "; ".join(left_out[:3]) + (" …" if len(left_out) > 3 else "")
    return (f"{len(left_out)} files of {batches.files.root} were left out: {shown}",)


def record_of(batches: ImageBatches, seed: int) -> dict[str, Any]:
    """What is recorded of the images of a pass.

    Args:
        batches: After the pass.
        seed: With which they were drawn.

    Returns:
        A JSON document: how many images were used, digests of the names that were drawn and of the images that were
        used, how many files were left out, and which (the first of them).
    """
    files, used, left_out = batches.files, batches.readable, _left_out(batches)
    names = b"\n".join(os.fsencode(path.relative_to(files.root)) for path in files.paths)
    return {
        "images": len(used.paths),
        "names_sha256": hashlib.sha256(names).hexdigest(),
        "images_sha256": used.digest(),
        "bad_images": left_out[:LISTED],
        "bad_images_total": len(left_out),
        "seed": seed,
    }


def _left_out(batches: ImageBatches) -> list[str]:
    root = batches.files.root
    others = (f"{path.relative_to(root).as_posix()}: no image by its name" for path in batches.files.others)
    return [*batches.bad, *others]


def accuracy_labels(batches: ImageBatches, classes: int) -> list[int] | None:
    """The label of each image as an output's index; None if the folders do not say.

    Class folders are numbered in the order of their names where there are as many as outputs; folders named by WordNet
    ids are looked up among ImageNet's 1,000 classes.
    """
    names = batches.files.classes
    if not names:
        return None
    if len(names) == classes:
        return batches.labels
    known = imagenet_classes() if classes == 1000 else {}
    if all(name in known for name in names):
        return [known[names[label]] for label in batches.labels]
    return None
