"""The options of a run, which its folder keeps: for `--config` of another, and to know the run again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from bnretrofit.errors import InputRejectedError, RetrofitError, UsageError
from bnretrofit.image_files import visible
from bnretrofit.workflows.run_folder import SETTINGS, differing, write_text
from bnretrofit.workflows.run_identity import model_known_as

__all__ = ["check_settings", "settings_written"]

FREE = frozenset({"workers", "save-steps", "device", "tensorboard", "trust-code"})
"""Options that change nothing of what comes out. Runs of earlier versions hold the permission to run code, too."""

OF_TRAINING = frozenset(
    {
        *("epochs", "steps", "batch-size", "lr", "opt", "momentum", "weight-decay", "sched", "min-lr", "warmup-steps"),
        *("smoothing", "mixup", "cutmix", "aug", "model-ema-decay", "model-ema-warmup", "clip-grad"),
        *("grad-accum-steps", "train", "bn-stats", "bn-momentum", "dropout", "amp", "channels-last", "patience"),
    }
)
"""Options that nothing depends on before the first state of training is kept."""


@contextmanager
def settings_written(path: Path, options: Mapping[str, Any] | None, *, anew: bool = False) -> Iterator[None]:
    """Write what `--config` takes, unless the run is one that is gone on with.

    Where the work within is refused before it left anything in the folder, they are taken back: whoever tries again,
    with other options, finds the folder as it was.

    Args:
        path: The run's folder.
        options: The command's; None for none that are to be written.
        anew: Write them instead of those that are there.
    """
    settings = path / SETTINGS
    fresh = options is not None and not settings.is_file()
    if fresh or (anew and options is not None):
        write_text(settings, yaml.safe_dump(dict(options or {}), sort_keys=True, allow_unicode=True))
    try:
        yield
    except RetrofitError:
        if fresh and visible(path) == [settings]:
            settings.unlink()
        raise


def check_settings(path: Path, options: Mapping[str, Any], *, begun: bool) -> None:
    """Refuse to go on with a run that was begun with other options; where and how fast it works may differ.

    Args:
        path: The run's folder.
        options: The command's.
        begun: Whether training has begun; before that, its options may differ too.

    Raises:
        UsageError: Names what differs.
        InputRejectedError: They cannot be read.
    """
    try:
        before = yaml.safe_load((path / SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise _damaged(path, next(iter(str(error).splitlines()), type(error).__name__)) from error
    if not isinstance(before, dict):
        raise _damaged(path, "it holds no options")
    free = FREE if begun else FREE | OF_TRAINING
    kept, given = ({key: each for key, each in some.items() if key not in free} for some in (before, options))
    for some in (kept, given):
        if isinstance(some.get("model"), str):
            some["model"] = model_known_as(some["model"])
    changed = differing(kept, given)
    if changed:
        why, remedy = "; ".join(changed), "go on with the same, or begin another run"
        raise UsageError("the run was begun with other options", where=str(path), why=why, remedy=remedy)


def _damaged(path: Path, why: str) -> InputRejectedError:
    return InputRejectedError(
        "the run's options cannot be read",
        where=str(path / SETTINGS),
        why=why,
        remedy="put the file back, or begin another run",
    )
