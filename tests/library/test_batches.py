"""What a model is called with: tensors, tuples and dicts."""

import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from bnretrofit.batches import as_call, describe, device_of, doubled, example_from, map_tensors, sample_count, taken
from bnretrofit.errors import InputRejectedError


def test_a_batch_becomes_the_arguments_of_a_call() -> None:
    x = torch.zeros(2)
    assert as_call(x) == ((x,), {})
    assert as_call((x, 1)) == ((x, 1), {})
    assert as_call([x, 1]) == ((x, 1), {})
    assert as_call({"image": x}) == ((), {"image": x})


def test_every_tensor_of_a_batch_is_changed_and_nothing_else() -> None:
    batch = {"a": torch.zeros(1), "b": (torch.ones(1), 3, "word", None)}
    found = map_tensors(lambda tensor: tensor + 1, batch)
    assert found == {"a": torch.ones(1), "b": (torch.full((1,), 2.0), 3, "word", None)}


def test_the_first_tensor_tells_the_number_of_samples() -> None:
    assert sample_count(torch.zeros(7, 2)) == 7
    assert sample_count({"scale": 2.0, "image": torch.zeros(5, 3)}) == 5
    assert sample_count((torch.zeros(()), torch.zeros(5))) == 1
    assert sample_count(()) == 1


def test_a_batch_of_one_is_doubled_and_a_larger_one_left_alone() -> None:
    found = doubled((torch.arange(3.0)[None], torch.zeros(4, 2), torch.tensor(1.0)))
    assert [tuple(tensor.shape) for tensor in found] == [(2, 3), (4, 2), ()]
    assert found[0].tolist() == [[0.0, 1.0, 2.0]] * 2


def test_a_sequence_without_batches_is_refused() -> None:
    assert list(taken(iter([1, 2]), "calibrate")) == [1, 2]
    with pytest.raises(InputRejectedError, match=r"no batch to verify with.*at least one"):
        list(taken([], "verify"))


def test_the_device_is_that_of_the_first_tensor() -> None:
    assert device_of(nn.Linear(2, 2, device="meta")).type == "meta"
    assert device_of(nn.BatchNorm1d(2, affine=False)).type == "cpu"
    assert device_of(nn.ReLU()).type == "cpu"


@pytest.mark.parametrize(
    "batch",
    [
        torch.randn(2, 3),
        (torch.ones(1, 2, dtype=torch.long), torch.zeros(3, dtype=torch.bfloat16)),
        {"image": torch.randn(2), "options": (1, 0.5, True, "word", None), "more": {"mask": torch.ones(2).bool()}},
    ],
)
def test_a_description_survives_json_and_makes_inputs_of_the_same_shapes(batch: Any) -> None:
    description = json.loads(json.dumps(describe(batch)))
    found = example_from(description, "cpu")
    assert describe(found) == description
    assert type(found) is type(batch)
    tensors = [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]
    assert tensors
    assert not any(bool(tensor.any()) for tensor in tensors)


def test_an_example_is_made_on_the_device_asked_for() -> None:
    assert example_from(describe(torch.zeros(2)), "meta").device.type == "meta"


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(InputRejectedError, match="holds a slice"):
        describe((torch.zeros(2), slice(1)))
