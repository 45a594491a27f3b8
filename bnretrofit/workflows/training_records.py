"""What a run writes down of itself: the settings by which it is known again, and the headers of its weights."""

import json
from collections.abc import Callable
from typing import Any

from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training import Epoch, TrainingConfig
from bnretrofit.training_data import TrainingSource
from bnretrofit.workflows.header import header_for
from bnretrofit.workflows.opening import Opened
from bnretrofit.workflows.run_identity import model_known_as

__all__ = ["training_describer", "training_settings"]


def training_settings(
    opened: Opened,
    config: TrainingConfig,
    source: TrainingSource,
    record: dict[str, Any],
    *,
    rate_found: bool,
    ranks: int,
    stream_steps: int | None = None,
) -> dict[str, Any]:
    """All that the weights depend on, as a JSON document; not where things are, nor how many processes decode.

    Args:
        opened: The checkpoint.
        config: How it is trained.
        source: What it learns from.
        record: What is recorded of the images.
        rate_found: Whether a range test chose the learning rate.
        ranks: Processes that train.
        stream_steps: Steps of an epoch of a stream, which depend on how many processes read it; None if nobody knows.
    """
    checkpoint = None if opened.checkpoint is None else opened.checkpoint.digest.result()
    settings = {
        "checkpoint": checkpoint,
        "model": model_known_as(str(opened.name)),
        "config": config.to_json(),
        "preprocessing": source.preprocessing.to_json(),
        "batch_size": source.batch_size,
        "aug": source.aug,
        "data": record,
        "ranks": ranks,
        "rate_found": rate_found,
    }
    if stream_steps is not None:
        settings["steps_per_epoch"] = stream_steps
    # As they are read again: JSON has lists alone.
    told: dict[str, Any] = json.loads(json.dumps(settings))
    return told


def training_describer(
    opened: Opened, named: str, config: TrainingConfig, preprocessing: Preprocessing, record: dict[str, Any]
) -> Callable[[str, Epoch, bool], dict[str, Any]]:
    """Make what gives a file of weights its header, from its name, its epoch, and whether statistics were measured.

    Args:
        opened: The checkpoint.
        named: The model's name, as the run was begun with it.
        config: How it is trained.
        preprocessing: Of its images.
        record: What is recorded of the images.
    """

    def describe(name: str, epoch: Epoch, measured: bool) -> dict[str, Any]:  # noqa: FBT001 - see run_folder.Describe
        header = header_for(
            opened,
            stage="finetuned",
            model=named,
            preprocessing=preprocessing,
            changes=opened.changes,
            plan=opened.plan,
        )
        training = {
            "weights": name,
            "epoch": epoch.epoch,
            "step": epoch.step,
            "val_top1": epoch.val_top1,
            "statistics": "measured" if measured else "running",
            "config": config.to_json(),
            "data": record,
        }
        return {**header, "training": training}

    return describe
