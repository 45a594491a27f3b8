"""A folder with a folder per class -> what to train on and what to validate with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.image_files import ImageFiles, find_images, visible
from bnretrofit.training_data.samples import FolderSamples, Part
from bnretrofit.training_data.splits import split

__all__ = ["FolderParts", "check_classes", "open_folders", "taken_apart"]

TRAINING = ("train", "training")
VALIDATION = ("val", "valid", "validation", "eval", "evaluation")
TEST = ("test",)


@dataclass(frozen=True, slots=True)
class FolderParts:
    """What was found.

    Attributes:
        train: What to train on.
        val: What to validate with; None for nothing.
        others: Files that are no images by their names.
    """

    train: Part
    val: Part | None
    others: tuple[str, ...]


def open_folders(
    root: Path, val: Path | None, *, val_split: float | None, seed: int, max_bad_images: int = 0
) -> FolderParts:
    """Find the images to train on and those to validate with.

    A folder that holds nothing but the splits of a data set (train, val, test …) is taken apart by their names; a
    class that happens to be called "train" beside others stays a class.

    Args:
        root: A folder with a folder per class, or with the splits of a data set.
        val: A folder with the same classes, or some of them.
        val_split: Without a folder to validate with, the share of each class that is set aside; None for none.
        seed: Of that split.
        max_bad_images: How many files that are no images are allowed.

    Raises:
        InputRejectedError: A folder cannot be read, has no class folders, or one without an image to train on, or has
            classes that training has not.
        UsageError: The share is out of range, or a class is too small to be split, or there is a folder as well.
    """
    root, val = taken_apart(root, val, val_split)
    found = _classified(root, max_bad_images)
    _refuse_empty(found)
    samples = FolderSamples(found, found.classes, found.labels)
    others = _names(found)
    if val is not None:
        # Both folders are counted against what is allowed together.
        validation = _classified(val, max_bad_images - len(found.others))
        mapped = FolderSamples(validation, found.classes, _mapped(validation, found.classes))
        return FolderParts(Part.whole(samples), Part.whole(mapped), (*others, *_names(validation)))
    if val_split is None:
        return FolderParts(Part.whole(samples), None, others)
    kept, aside = split(samples.labels, val_split, seed)
    return FolderParts(Part(samples, kept), Part(samples, aside), others)


def taken_apart(root: Path, val: Path | None, val_split: float | None) -> tuple[Path, Path | None]:
    """The folder to train on and the one to validate with; of a folder that holds nothing but splits, two of these.

    Raises:
        UsageError: There is one to validate with, and a share is to be set aside.
    """
    found = [path for path in visible(root) if path.is_dir()] if root.is_dir() else []
    folders = {path.name.lower(): path for path in found}
    if len(folders) < len(found):
        # They differ in capitals alone, as no splits do.
        return root, val
    train = next((folders[name] for name in TRAINING if name in folders), None)
    if train is None or not folders.keys() <= {*TRAINING, *VALIDATION, *TEST}:
        return root, val
    named = next((folders[name] for name in VALIDATION if name in folders), None)
    if val is None and named is not None:
        if val_split is not None:
            raise UsageError(
                "nothing is to be set aside with --val-split",
                where=str(root),
                why=f"it has a folder to validate with, '{named.name}'",
                remedy=f"leave out --val-split, or name the folder '{train.name}' in it",
            )
        val = named
    return train, val


def _classified(folder: Path, max_bad_images: int) -> ImageFiles:
    found = find_images(folder, max_bad_images)
    if not found.classes:
        raise InputRejectedError(
            "the images have no labels",
            where=str(folder),
            why="they do not all lie in class folders",
            remedy="give each class a folder of its own",
        )
    return found


def _refuse_empty(found: ImageFiles) -> None:
    """Without an image a class folder counts for no class: those after it would have other numbers than they seem."""
    empty = sorted({path.name for path in visible(found.root) if path.is_dir()} - set(found.classes))
    if empty:
        raise InputRejectedError(
            f"{len(empty)} of {len(empty) + len(found.classes)} class folders hold no image",
            where=str(found.root),
            why=_shown(empty),
            remedy="put their images there, or remove the folders",
        )


def _mapped(files: ImageFiles, classes: Sequence[str]) -> tuple[int, ...]:
    """The labels, as indices of the classes that training knows."""
    check_classes(files.classes, classes, where=str(files.root))
    places = {name: index for index, name in enumerate(classes)}
    return tuple(places[files.classes[label]] for label in files.labels)


def check_classes(found: Sequence[str], known: Sequence[str], *, where: str) -> None:
    """See that what is validated with has no class that training has not.

    Raises:
        InputRejectedError: It has one.
    """
    unknown = [name for name in found if name not in known]
    if unknown:
        missing = [name for name in known if name not in found]
        raise InputRejectedError(
            f"{len(unknown)} of {len(found)} classes are not among the {len(known)} of training",
            where=where,
            why=f"only here: {_shown(unknown)}; only in training: {_shown(missing)}",
            remedy="name the classes alike",
        )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "") if names else "none"


def _names(files: ImageFiles) -> tuple[str, ...]:
    return tuple(path.relative_to(files.root).as_posix() for path in files.others)
