"""A caller's own loaders: what of them each process is given, and when."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from bnretrofit.errors import UsageError
from bnretrofit.training.loaders import LoaderSet


class Numbers(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((1,), float(index)), index


def labels(batches: Any) -> list[int]:
    return [int(label) for _, some in batches for label in some]


def test_ranks_together_validate_on_each_image_once() -> None:
    data = LoaderSet([], DataLoader(Numbers(), batch_size=2))
    assert sorted(labels(data.validation(0, 2)) + labels(data.validation(1, 2))) == list(range(12))


def test_a_validation_loader_that_shares_by_itself_is_refused_on_ranks() -> None:
    sampler: DistributedSampler[Any] = DistributedSampler(Numbers(), num_replicas=2, rank=0, shuffle=False)
    data = LoaderSet([], DataLoader(Numbers(), batch_size=2, sampler=sampler))
    with pytest.raises(UsageError, match="shared out to the processes twice"):
        data.validation(0, 2)


def test_accelerate_s_loaders_are_known_too() -> None:
    from accelerate.data_loader import prepare_data_loader

    shared: Any = prepare_data_loader(
        DataLoader(Numbers(), batch_size=2), num_processes=2, process_index=1, put_on_device=False, rng_types=[]
    )
    with pytest.raises(UsageError, match="twice"):
        LoaderSet([], shared).validation(1, 2)


def test_to_ask_whether_there_is_validation_starts_no_loader() -> None:
    class Counted:
        begun = 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.begun += 1
            return iter([])

    loader = Counted()
    found = LoaderSet([], loader).validation()
    assert (found is not None, loader.begun) == (True, 0)
    assert list(found or []) == []
    assert loader.begun == 1
