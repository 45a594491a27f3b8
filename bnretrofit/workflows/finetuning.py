"""What `bnretrofit finetune` does: train a checkpoint, and keep the run in a folder that it can go on from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bnretrofit.errors import UsageError
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training import TrainingConfig, finetune_on
from bnretrofit.training.budget import check_budget
from bnretrofit.training.devices import process_rank
from bnretrofit.training.plots import plot_history
from bnretrofit.training.rate_range import RateRange, find_rate
from bnretrofit.training.results import Results
from bnretrofit.training_data.source import TrainingSet
from bnretrofit.training_data.streamed import StreamedSet
from bnretrofit.training_data.timm_datasets import parse_dataset
from bnretrofit.workflows.learners import learner
from bnretrofit.workflows.opening import ModelChoice, open_model
from bnretrofit.workflows.own_heads import with_own_head
from bnretrofit.workflows.run_folder import (
    PLOT,
    RunFolder,
    check_apart,
    check_there,
    check_weights_elsewhere,
    model_of,
    opened_run,
    rate_of,
)
from bnretrofit.workflows.run_settings import settings_written
from bnretrofit.workflows.tensorboard import TensorBoardLog
from bnretrofit.workflows.training_choices import DataChoice, RunChoice
from bnretrofit.workflows.training_records import training_describer, training_settings

__all__ = ["Finetuned", "finetune_checkpoint"]


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
        notes: What was assumed; it was told already.
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
    if model.submodule and (opened.plan is None or model.submodule != opened.submodule):
        why = "all of the network is trained, whichever part of it has norms"
        raise UsageError("finetune takes no --submodule", why=why, remedy="leave it out")
    # A data set by timm's name is no folder, nor is its split.
    folders = (data.root, data.val) if parse_dataset(data.root) is None else ()
    check_apart(run.folder, *folders, data.data_dir)
    writes = process_rank()[0] == 0
    notes: list[str] = []

    def noted(text: str) -> None:
        notes.append(text)
        # One of several processes tells what all have found.
        if writes:
            tell(text)

    with (
        learner(opened, model, data, config, run.device) as ready,
        opened_run(run.folder, resume=run.resume, writes=writes),
    ):
        opened, network, samples, source = ready.opened, ready.network, ready.samples, ready.source
        # Refused now, not after a rate was searched for.
        check_budget(config, samples, *process_rank())
        for text in (*opened.notes, *ready.notes):
            noted(text)
        if samples.validation() is None:
            noted("there is nothing to validate with: the best weights are those of the last epoch")
        # A run that is gone on with keeps the rate that it found.
        found = rate_of(run.folder) if run.find_rate else None
        rates = find_rate(network, samples, config, run.device) if run.find_rate and found is None else None
        config = replace(config, lr=rates.chosen) if rates is not None else replace(config, lr=found or config.lr)
        if found is not None:
            noted(f"the run goes on with the learning rate that it has found, {found:.3g}")
        named = model_of(run.folder, str(opened.name))
        ranks = process_rank()[1]
        streamed = isinstance(samples, StreamedSet)
        per_epoch = samples.batches_per_epoch(ranks, config.grad_accum_steps) if streamed else None
        keeper = RunFolder(
            run.folder,
            training_settings(
                opened, config, source, ready.record, rate_found=run.find_rate, ranks=ranks, stream_steps=per_epoch
            ),
            training_describer(opened, named, config, source.preprocessing, ready.record),
            run.save_steps,
            writes=writes,
            log=TensorBoardLog(run.folder / "tensorboard") if run.tensorboard and writes else None,
        )
        keeper.enter()
        try:
            # A run with other settings is refused before anything of it changes.
            keeper.load()
            if (left_out := _left_out(samples, source.batch_size, config)) is not None:
                noted(left_out)
            with settings_written(run.folder, run.options if keeper.writes else None):
                results = finetune_on(network, samples, config, device=run.device, keeper=keeper, tell=noted)
        finally:
            keeper.leave()
        for text in samples.bad:
            noted(text)
        told = samples.record()
    if keeper.writes:
        plot_history(results.history, run.folder / PLOT)
    return Finetuned(str(opened.name), results, source.preprocessing, told, run.folder, rates, tuple(notes))


def _left_out(samples: TrainingSet, batch_size: int, config: TrainingConfig) -> str | None:
    """What is told of the images that make no step in an epoch; None where there are none, or nobody knows."""
    if isinstance(samples, StreamedSet):
        # Its reader decides what an epoch is made of.
        return None
    ranks, accumulate = process_rank()[1], config.grad_accum_steps
    images, steps = samples.train_size, samples.batches_per_epoch(ranks, accumulate)
    if images is None or steps is None:
        return None
    whole = batch_size * ranks * accumulate
    left = images - steps * whole
    if left <= 0:
        return None
    # Each epoch has an order of its own.
    each = f"{left} of the {images} images of each epoch, others each time,"
    return f"{each} are left out: they do not fill a step of {whole}"
