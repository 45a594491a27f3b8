"""The names of timm's data sets -> data sets, which timm opens."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnretrofit.errors import InputRejectedError, UsageError

__all__ = ["DatasetName", "open_dataset", "parse_dataset"]

PACKAGES = {
    "hfds": "datasets",
    "hfids": "datasets",
    "tfds": "tensorflow_datasets",
    "torch": "torchvision",
    "wds": "webdataset",
}
"""What timm needs for each of its prefixes; a name that begins otherwise is a folder."""

STREAMS = frozenset({"hfids", "tfds", "wds"})


@dataclass(frozen=True, slots=True)
class DatasetName:
    """A data set as timm calls it.

    Attributes:
        prefix: One of `PACKAGES`.
        name: All of it, with the prefix.
        data_dir: Where its files are; None for where its library keeps them.
    """

    prefix: str
    name: str
    data_dir: str | None

    @property
    def title(self) -> str:
        """What it is called in what is kept: no folder of this machine is in it."""
        local = self.prefix == "wds" or Path(self.name.partition("/")[2]).exists()
        return self.prefix if local else self.name

    @property
    def streamed(self) -> bool:
        """Whether its images come one after the other and have no numbers."""
        return self.prefix in STREAMS


def parse_dataset(root: str, data_dir: str | None = None) -> DatasetName | None:
    """Read a name such as "hfds/NAME"; None for a folder, which "./hfds/NAME" is even if it exists.

    Args:
        root: What the user wrote.
        data_dir: Where the files are; of a "wds/FOLDER" the folder, if it is not given.
    """
    prefix, slash, rest = root.partition("/")
    if not slash or not rest or prefix.lower() not in PACKAGES:
        return None
    prefix = prefix.lower()
    return DatasetName(prefix, root, rest if prefix == "wds" and data_dir is None else data_dir)


def open_dataset(dataset: DatasetName, split: str, **options: Any) -> Any:
    """What `timm.data.create_dataset` makes of it: of a stream an `IterableDataset`, else a `Dataset`.

    Args:
        dataset: Its name.
        split: The split.
        options: As `timm.data.create_dataset` takes them.

    Raises:
        UsageError: A package that it needs is not installed.
        InputRejectedError: It cannot be opened.
    """
    package = PACKAGES[dataset.prefix]
    # timm itself would say so on stdout, where only results belong.
    if importlib.util.find_spec(package) is None:
        raise UsageError(
            f"the data set needs the package {package}",
            where=dataset.name,
            remedy=f"install it: python -m pip install {package.replace('_', '-')}",
        )
    if dataset.prefix == "torch" and dataset.data_dir is None:
        raise UsageError("torchvision's data sets lie in a folder", where=dataset.name, remedy="pass --data-dir DIR")
    from timm.data.dataset_factory import create_dataset

    try:
        return create_dataset(dataset.name, root=dataset.data_dir, split=split, **options)
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # each library of data sets has exceptions of its own
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputRejectedError(
            f"the split {split} of the data set cannot be opened", where=dataset.name, why=said
        ) from error
