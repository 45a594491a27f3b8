"""By what a run is known again, from whichever folder it is gone on with, and by a later version."""

from collections.abc import Mapping
from typing import Any

from bnretrofit.training import TrainingConfig
from bnretrofit.zoo import place_in

__all__ = ["known_again", "model_known_as"]


def model_known_as(name: str) -> str:
    """A model's name without the folder of its file: that may be named from elsewhere, or have been moved."""
    place = place_in(name)
    if place is None:
        return name
    last = place.resolve().name
    return f"local-dir:{last}" if name.startswith("local-dir:") else f"{last}:{name.rpartition(':')[2]}"


def known_again(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings as two of them are held against each other.

    Given: those of a run that knows less than this version. Result: what it did without a word is said.

    Args:
        settings: As `training_records.training_settings` makes them.
    """
    config = settings["config"]
    # An average that was asked for always began with the warm-up, before that could be chosen.
    before = {**TrainingConfig().to_json(), "ema_warmup": config.get("ema_decay") is not None}
    preprocessing = {name: each for name, each in settings["preprocessing"].items() if name != "stored_size"}
    return {
        **settings,
        "model": model_known_as(settings["model"]),
        "config": {**before, **config},
        "preprocessing": preprocessing,
    }
