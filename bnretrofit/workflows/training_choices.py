"""What a user said of training: from which images, and where the run is kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training_data import TrainingSource
from bnretrofit.training_data.source import TRAIN_SPLIT
from bnretrofit.workflows.images import ImageChoice

__all__ = ["DataChoice", "RunChoice"]


@dataclass(frozen=True, slots=True)
class DataChoice:
    """What a user said of the images, besides the options of every command.

    Attributes:
        images: The options of every command; its folder is not used.
        root: See `training_data.TrainingSource`.
        val: See there.
        val_split: See there.
        aug: See there.
        data_dir: See there.
        train_split: See there.
    """

    images: ImageChoice
    root: str
    val: str | None = None
    val_split: float | None = None
    aug: str = "auto"
    data_dir: str | None = None
    train_split: str = TRAIN_SPLIT

    def source(self, given: Preprocessing, min_batch: int) -> TrainingSource:
        """What is trained on, for a network of that preprocessing."""
        return TrainingSource(
            self.root,
            self.images.preprocessing(given),
            val=self.val,
            val_split=self.val_split,
            seed=self.images.seed,
            aug=self.aug,
            batch_size=self.images.batch_size,
            workers=self.images.workers,
            max_bad_images=self.images.max_bad_images,
            min_batch=min_batch,
            data_dir=self.data_dir,
            train_split=self.train_split,
        )


@dataclass(frozen=True, slots=True)
class RunChoice:
    """How a run is kept.

    Attributes:
        folder: Where.
        resume: Go on with what is there.
        save_steps: Save the state after so many steps too.
        find_rate: Find the learning rate by a range test first.
        device: "cpu", or None for what there is.
        options: The command's options, for `--config` of another run.
        tensorboard: Write event files for TensorBoard into the folder, too.
    """

    folder: Path
    resume: bool = False
    save_steps: int | None = None
    find_rate: bool = False
    device: str | None = None
    options: dict[str, Any] | None = None
    tensorboard: bool = False
