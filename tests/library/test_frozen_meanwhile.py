"""A model while its statistics are frozen, and after: its state, its copies, and nothing left behind."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from bnretrofit.capture import capture
from bnretrofit.copies import independent_copy
from bnretrofit.errors import InputRejectedError
from bnretrofit.training.frozen_statistics import FrozenStatistics, frozen_statistics
from tests.library.networks import chain, images, with_own_norms
from tests.library.observing import equal_states, observed, part, randomised, same


def test_statistics_move_again_afterwards_and_not_before() -> None:
    model, x = randomised(with_own_norms()).train(), images(4)
    before = copy.deepcopy(model)
    with frozen_statistics(model, x):
        model(x)
        assert equal_states(model, before)
    model(x)
    before(x)
    assert equal_states(model, before)
    assert part(model, "1").num_batches_tracked == 1


def test_a_model_is_restored_after_an_exception_in_it() -> None:
    model = randomised(with_own_norms()).train()
    before = observed(model)
    with pytest.raises(RuntimeError, match="channels"), frozen_statistics(model, images()):
        model(images(2, 4))
    assert same(before, observed(model))
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_forward_that_somebody_else_replaced_comes_back() -> None:
    model, x = randomised(with_own_norms()).double(), images().double()
    norm = part(model, "1")
    theirs = norm.forward = partial(nn.BatchNorm2d.forward, norm)
    wanted = model(x)
    with frozen_statistics(model, x) as found:
        torch.testing.assert_close(model.train()(x), wanted)
    assert norm.forward is theirs
    assert "was replaced" in found.leaves[0].reason
    assert [pair.norm for pair in found.absorbed] == ["4"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, independent_copy])
def test_a_copy_made_meanwhile_has_tensors_of_its_own(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), with_own_norms())
    model, x = randomised(network).double(), images(4).double()
    with frozen_statistics(model, x) as found:
        assert (len(found.absorbed), len(found.leaves)) == (2, 1)
        wanted = model(x)
        twin = duplicate(model)
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.zero_()
        torch.testing.assert_close(twin.train()(x), wanted)
        with torch.no_grad():
            part(twin, "1.1").weight.mul_(2)
        assert not torch.allclose(twin(x), wanted)
    assert list(twin.state_dict()) == list(network.state_dict())


def test_keys_and_names_stay_meanwhile_and_a_state_can_be_loaded() -> None:
    model, x = randomised(with_own_norms()).double(), images(4).double()
    other = randomised(copy.deepcopy(model))
    names = list(model.named_parameters()), list(model.state_dict())
    with frozen_statistics(model, x):
        assert (list(model.named_parameters()), list(model.state_dict())) == names
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(model(x), other(x))


def test_a_capture_meanwhile_shows_no_norm() -> None:
    model, x = randomised(with_own_norms()), images()
    with frozen_statistics(model, x):
        names = {str(node.target) for node in capture(model, x).nodes}
    assert not any("batch_norm" in name for name in names)


def test_a_call_without_a_batch_is_refused() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), images()
    with frozen_statistics(model, x), pytest.raises(InputRejectedError, match="takes batches"):
        model(x[0])


def test_a_wrapped_model_is_refused() -> None:
    model = nn.DataParallel(with_own_norms())
    with pytest.raises(InputRejectedError, match=r"Pass model\.module"), frozen_statistics(model, images()):
        pass


def test_a_model_without_norms_is_left_alone() -> None:
    with frozen_statistics(chain(), images()) as found:
        assert found == FrozenStatistics((), ())
