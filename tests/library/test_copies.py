"""Copies that share all tensors or none, and modules put in others' places."""

import copy
import threading
from typing import Any

import pytest
import torch
from torch import nn

from bnretrofit.copies import independent_copy, replace_module, replace_modules, share_copy
from bnretrofit.errors import InputRejectedError
from tests.library.networks import Tied, chain, reparametrised, with_own_norms
from tests.library.observing import equal_states, observed, part, same, storages


def test_a_sharing_copy_has_new_modules_over_the_same_tensors() -> None:
    model = with_own_norms()
    found = share_copy(model)
    for (name, mine), (other_name, other) in zip(model.named_modules(), found.named_modules(), strict=True):
        assert (name, type(mine)) == (other_name, type(other))
        assert mine is not other
    for mine, other in zip(
        model.state_dict(keep_vars=True).values(), found.state_dict(keep_vars=True).values(), strict=True
    ):
        assert mine is other


def test_surgery_on_a_sharing_copy_leaves_the_model_alone() -> None:
    model = chain()
    before = observed(model)
    found: Any = share_copy(model)
    found[0] = nn.Identity()
    found[4].stride = (2, 2)
    found[8].register_forward_hook(lambda *_: None)
    found.eval()
    found.note = "a copy"
    assert same(before, observed(model))
    assert part(model, "4").stride == (1, 1)


def test_an_independent_copy_shares_no_memory() -> None:
    model = with_own_norms()
    part(model, "0").weight.requires_grad_(False)
    found = independent_copy(model)
    assert equal_states(model, found)
    assert not storages(model) & storages(found)
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in model.parameters()]


@pytest.mark.parametrize("copied", [share_copy, independent_copy])
def test_tied_tensors_stay_tied(copied: Any) -> None:
    found = copied(Tied())
    assert found.first.weight is found.second.weight


@pytest.mark.parametrize("way", ["old", "new"])
@pytest.mark.parametrize("copied", [share_copy, independent_copy])
def test_a_model_with_a_computed_weight_is_copied(copied: Any, way: str) -> None:
    model = reparametrised(way)
    x = torch.randn(2, 3, 8, 8)
    # With gradients: the old weight_norm then keeps a tensor that deepcopy refuses.
    wanted = model.eval()(x)
    with_old = way == "old"
    if with_old:
        with pytest.raises(RuntimeError):
            copy.deepcopy(model)
    assert torch.equal(copied(model)(x), wanted)


def test_a_model_that_python_cannot_copy_is_refused_by_name() -> None:
    model: Any = chain()
    model.lock = threading.Lock()
    with pytest.raises(InputRejectedError, match=r"Sequential cannot be copied.*lock"):
        share_copy(model)


def test_a_module_is_replaced_at_every_place_where_it_stands() -> None:
    layer, new = nn.Linear(2, 2), nn.Identity()
    model = nn.Sequential(layer, nn.Sequential(layer, nn.ReLU(), layer))
    assert replace_module(model, layer, new) is model
    assert all(part(model, name) is new for name in ("0", "1.0", "1.2"))


def test_a_root_is_replaced_by_being_returned() -> None:
    layer, new = nn.Linear(2, 2), nn.Identity()
    assert replace_module(layer, layer, new) is new


def test_many_are_replaced_at_once() -> None:
    first, second, empty = nn.Linear(2, 2), nn.Linear(2, 2), nn.Sequential()
    model = nn.Sequential(first, nn.Sequential(second, first), nn.ReLU())
    wrapper = nn.Sequential(first)
    assert replace_modules(model, {first: wrapper, second: empty}) is model
    assert part(model, "0") is part(model, "1.1") is wrapper
    assert part(model, "1.0") is empty
    assert part(wrapper, "0") is first


def test_modules_change_places_and_stay_in_theirs() -> None:
    first, second = nn.Linear(2, 2), nn.ReLU()
    model = nn.Sequential(first, second)
    replace_modules(model, {first: second, second: first})
    assert (part(model, "0"), part(model, "1")) == (second, first)
    assert replace_module(model, first, first) is model
    assert replace_module(first, first, first) is first
    assert (part(model, "0"), part(model, "1")) == (second, first)


def test_a_wrapper_keeps_what_it_wraps() -> None:
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer)
    wrapper = nn.Sequential(layer, nn.ReLU())
    replace_module(model, layer, wrapper)
    assert part(model, "0") is wrapper
    assert part(wrapper, "0") is layer
