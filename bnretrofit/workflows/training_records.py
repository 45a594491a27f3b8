"""What a run writes down of itself: the settings by which it is known again, and the headers of its weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bnretrofit.preprocessing import Preprocessing
from bnretrofit.training import Epoch, TrainingConfig
from bnretrofit.training_data import TrainingSource
from bnretrofit.workflows.header import header_for
from bnretrofit.workflows.opening import Opened
from bnretrofit.zoo import ModelName

__all__ = ["training_describer", "training_settings"]


def training_settings(
    opened: Opened,
    config: TrainingConfig,
    source: TrainingSource,
    record: dict[str, Any],
    *,
    rate_found: bool,
    ranks: int,
) -> dict[str, Any]:
    """All that the weights depend on, as a JSON document; not where things are, nor how many processes decode.

    Args:
        opened: The checkpoint.
        config: How it is trained.
        source: What it learns from.
        record: What is recorded of the images.
        rate_found: Whether a range test chose the learning rate.
        ranks: Processes that train.
    """
    checkpoint = None if opened.checkpoint is None else opened.checkpoint.digest.result()
    settings = {
        "checkpoint": checkpoint,
        "model": _known_as(opened.name),
        "config": config.to_json(),
        "preprocessing": source.preprocessing.to_json(),
        "batch_size": source.batch_size,
        "aug": source.aug,
        "data": record,
        "ranks": ranks,
        "rate_found": rate_found,
    }
    # As they are read again: JSON has lists alone.
    told: dict[str, Any] = json.loads(json.dumps(settings))
    return told


def _known_as(name: ModelName) -> str:
    """A model's name wherever it is worked: a Python file may be named from another folder, or lie in another."""
    file, _, factory = name.name.rpartition(":")
    return f"{Path(file).name}:{factory}" if name.library == "file" else str(name)


def training_describer(
    opened: Opened, config: TrainingConfig, preprocessing: Preprocessing, record: dict[str, Any]
) -> Callable[[str, Epoch, bool], dict[str, Any]]:
    """Make what gives a file of weights its header, from its name, its epoch, and whether statistics were measured."""

    def describe(name: str, epoch: Epoch, measured: bool) -> dict[str, Any]:  # noqa: FBT001 - see run_folder.Describe
        header = header_for(
            opened,
            stage="finetuned",
            model=str(opened.name),
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
