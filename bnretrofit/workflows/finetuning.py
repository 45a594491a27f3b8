"""What `bnretrofit finetune` does: train a checkpoint, and keep the run in a folder that it can go on from."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bnretrofit.copies import independent_copy
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training import TrainingConfig, finetune_on
from bnretrofit.training.budget import check_patience, check_step
from bnretrofit.training.devices import process_rank
from bnretrofit.training.evaluation import classes_of
from bnretrofit.training.heads import replace_head
from bnretrofit.training.norm_mode import smallest_batch
from bnretrofit.training.plots import plot_history
from bnretrofit.training.rate_range import RateRange, find_rate
from bnretrofit.training.results import Results
from bnretrofit.training_data import TrainingSet, TrainingSource, open_training
from bnretrofit.training_data.source import TRAIN_SPLIT
from bnretrofit.workflows.images import ImageChoice
from bnretrofit.workflows.labels import labels_for
from bnretrofit.workflows.opening import ModelChoice, example_for, open_model
from bnretrofit.workflows.own_heads import check_heads, with_own_head
from bnretrofit.workflows.run_folder import (
    PLOT,
    RunFolder,
    check_apart,
    check_there,
    check_weights_elsewhere,
    opened_run,
    rate_of,
)
from bnretrofit.workflows.run_settings import settings_written
from bnretrofit.workflows.tensorboard import TensorBoardLog
from bnretrofit.workflows.training_records import training_describer, training_settings

__all__ = ["DataChoice", "Finetuned", "RunChoice", "finetune_checkpoint"]


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


@dataclass(frozen=True, slots=True)
class Finetuned:
    """What was done.

    Attributes:
        model: The architecture.
        results: Epoch by epoch, and in the end.
        preprocessing: Of the images.
        data: What is recorded of them, with those that could not be read.
        folder: The run.
        rates: What the range test found; None where none was made.
        notes: What was assumed.
    """

    model: str
    results: Results
    preprocessing: Preprocessing
    data: dict[str, Any]
    folder: Path
    rates: RateRange | None
    notes: tuple[str, ...]


def finetune_checkpoint(
    path: Path | None,
    model: ModelChoice,
    data: DataChoice,
    config: TrainingConfig,
    run: RunChoice,
    tell: Callable[[str], None],
) -> Finetuned:
    """Fine-tune a checkpoint.

    Args:
        path: The checkpoint; None for the library's own weights.
        model: What the user said of it; another number of classes than it has gives it a new last layer.
        data: What it learns from.
        config: How.
        run: Where it is kept.
        tell: Called with each sentence that the user should read while it goes on.

    Returns:
        What was achieved. The folder holds `best.safetensors` and `last.safetensors`.

    Raises:
        RetrofitError: The message says what. What the run had kept is still there.
    """
    check_there(run.folder, resume=run.resume)
    check_weights_elsewhere(run.folder, path, model.read_from)
    opened = open_model(path, with_own_head(path, model))
    network = independent_copy(opened.model if opened.whole is None else opened.whole)
    # On GPUs statistics are those of all ranks.
    together = 1 if run.device == "cpu" or not torch.cuda.is_available() else process_rank()[1]
    min_batch = smallest_batch(network, config.bn_stats, data.images.batch_size * together)
    source = data.source(opened.preprocessing, min_batch)
    example = example_for(source.preprocessing, network)
    with closing(open_training(source)) as given:
        notes = [*opened.notes, given.promise]
        classes = model.num_classes
        if classes is not None and classes != classes_of(network, example):
            head = replace_head(network, example, classes, config.seed)
            opened = replace(opened, num_classes=classes)
            check_heads(network, opened, trust_code=model.trust_code)
            notes.append(f"'{head}' is a new layer of {classes} outputs")
        labels = labels_for(given.classes, classes_of(network, example))
        samples = given if labels is None else given.relabelled(labels)
        check_apart(run.folder, data.root, data.val, data.data_dir)
        if process_rank()[0] == 0:
            opened_run(run.folder, resume=run.resume)
        # Before any image is read: what cannot be read is found anew by whoever goes on, and told in the end.
        record = samples.record()
        # Refused now, not after a rate was searched for.
        check_patience(config, samples, *process_rank())
        check_step(config, samples, process_rank()[1])
        # A run that is gone on with keeps the rate that it found.
        found = rate_of(run.folder) if run.find_rate else None
        rates = find_rate(network, samples, config, run.device) if run.find_rate and found is None else None
        config = replace(config, lr=rates.chosen) if rates is not None else replace(config, lr=found or config.lr)
        if found is not None:
            notes.append(f"the run goes on with the learning rate that it has found, {found:.3g}")
        keeper = RunFolder(
            run.folder,
            training_settings(opened, config, source, record, rate_found=run.find_rate, ranks=process_rank()[1]),
            training_describer(opened, config, source.preprocessing, record),
            run.save_steps,
            writes=process_rank()[0] == 0,
            log=TensorBoardLog(run.folder / "tensorboard") if run.tensorboard and process_rank()[0] == 0 else None,
        )
        keeper.enter()
        try:
            # A run with other settings is refused before anything of it changes.
            keeper.load()
            if keeper.writes and (left_out := _left_out(samples, source.batch_size, config)) is not None:
                tell(left_out)
            with settings_written(run.folder, run.options if keeper.writes else None):
                results = finetune_on(network, samples, config, device=run.device, keeper=keeper, tell=tell)
        finally:
            keeper.leave()
        notes.extend(samples.bad)
        told = samples.record()
    if keeper.writes:
        plot_history(results.history, run.folder / PLOT)
    return Finetuned(str(opened.name), results, source.preprocessing, told, run.folder, rates, tuple(notes))


def _left_out(samples: TrainingSet, batch_size: int, config: TrainingConfig) -> str | None:
    """What is told of the images at an epoch's end that make no step; None where there are none, or nobody knows."""
    ranks, accumulate = process_rank()[1], config.grad_accum_steps
    images, steps = samples.train_size, samples.batches_per_epoch(ranks, accumulate)
    if images is None or steps is None:
        return None
    whole = batch_size * ranks * accumulate
    left = images - steps * whole
    if left <= 0:
        return None
    return f"the last {left} of the {images} images of each epoch are left out: they do not fill a step of {whole}"
