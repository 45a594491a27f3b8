"""What a user said of the images -> batches for a model."""

from dataclasses import dataclass
from pathlib import Path

from bnretrofit.data import ImageBatches, ImageFiles, find_images
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.zoo import imagenet_classes

__all__ = ["ImageChoice", "accuracy_labels", "batches_of", "notes_on"]


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
        img_size, mean, std, interpolation, crop_pct: Instead of the model's own preprocessing.
    """

    folder: Path | None
    batch_size: int = 32
    workers: int = 0
    num_images: int | None = None
    seed: int = 0
    max_bad_images: int = 0
    img_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None

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
        if choice.folder is None:
            raise ValueError("no folder was chosen")
        files = find_images(choice.folder, choice.max_bad_images).sampled(choice.num_images, choice.seed)
    return ImageBatches(files, preprocessing, choice.batch_size, choice.workers, choice.max_bad_images)


def notes_on(batches: ImageBatches) -> tuple[str, ...]:
    """What a pass over the images has left out, to be told to the user."""
    left_out = [*batches.bad, *(f"{path.name}: no image by its name" for path in batches.files.others)]
    if not left_out:
        return ()
    shown = "; ".join(left_out[:3]) + (" …" if len(left_out) > 3 else "")
    return (f"{len(left_out)} files of {batches.files.root} were left out: {shown}",)


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
