"""The table of layers, the norms that go after them, and `Normed`, which holds both."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from bnretrofit.layers import kind_of, norm_name_for
from bnretrofit.norms import ChannelsLastBatchNorm1d, is_fixed_norm, norm_for
from bnretrofit.standing import Normed
from tests.library.networks import CONVS, StandardisedConv, conv_then, input_of
from tests.library.observing import part, randomised

KINDS = (*CONVS, "Linear")


def layer_of(kind: str) -> Any:
    return nn.Linear(4, 6) if kind == "Linear" else part(conv_then(kind), "0")


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_has_its_row(kind: str) -> None:
    layer = layer_of(kind)
    row = kind_of(layer)
    assert row is not None
    assert row.name == kind
    assert row.family == ("dense" if kind == "Linear" else "conv")
    assert row.transposed == ("Transpose" in kind)
    assert row.channels(layer) == 6


def test_a_subclass_has_the_row_of_its_parent_and_other_modules_none() -> None:
    row = kind_of(StandardisedConv(3, 4, 3))
    assert row is not None
    assert row.name == "Conv2d"
    assert kind_of(nn.ReLU()) is None
    assert kind_of(nn.BatchNorm2d(3)) is None


@pytest.mark.parametrize("kind", CONVS)
def test_a_convolution_s_channels_are_its_second_dimension(kind: str) -> None:
    row, rank = kind_of(layer_of(kind)), input_of(kind).dim()
    assert row is not None
    assert row.channel_dim(rank) == 1
    assert row.channel_dim(rank - 1) is None
    norm: Any = norm_for(norm_name_for(row, 1), 6, layer_of(kind))
    assert type(norm) is CONVS[kind][1]


def test_a_dense_layer_s_channels_are_its_last_dimension() -> None:
    row = kind_of(nn.Linear(4, 6))
    assert row is not None
    assert [row.channel_dim(rank) for rank in (1, 2, 3, 4)] == [None, 1, -1, -1]
    assert norm_name_for(row, 1) == "BatchNorm1d"
    assert norm_name_for(row, -1) == "ChannelsLastBatchNorm1d"


def test_a_norm_is_in_float32_but_after_float64_and_in_its_layer_s_mode_and_place() -> None:
    for dtype, wanted in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        layer = nn.Conv2d(3, 4, 1, dtype=dtype).eval()
        norm = norm_for("BatchNorm2d", 4, layer)
        assert norm.weight.dtype == wanted
        assert not norm.training
    assert norm_for("BatchNorm1d", 4, nn.Linear(2, 4, device="meta")).weight.is_meta
    assert norm_for("BatchNorm1d", 4, nn.Linear(2, 4)).training


@pytest.mark.parametrize("shape", [(3, 7, 5), (2, 3, 4, 5), (6, 5), (4, 5, 5)])
def test_the_channels_last_norm_normalises_the_last_dimension(shape: tuple[int, ...]) -> None:
    norm: Any = randomised(ChannelsLastBatchNorm1d(5))
    x = torch.randn(shape)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(norm(x), (x - norm.running_mean) * scale + norm.bias)


def test_the_channels_last_norm_trains_on_all_positions() -> None:
    norm = ChannelsLastBatchNorm1d(5, momentum=1.0)
    x = torch.randn(3, 7, 5) * 4 + 2
    y = norm(x)
    torch.testing.assert_close(norm.running_mean, x.mean((0, 1)))
    torch.testing.assert_close(norm.running_var, x.flatten(0, 1).var(0))
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(5), rtol=0, atol=1e-5)


def test_a_normed_layer_runs_the_layer_and_then_the_norm() -> None:
    layer, norm = nn.ConvTranspose2d(3, 4, 3, stride=2), randomised(nn.BatchNorm2d(4))
    found = Normed(layer, norm).eval()
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(found(x), norm(layer(x)))
    # The layer's own further arguments reach it.
    assert found(x, output_size=[10, 10]).shape[-1] == 10
    assert [type(module) for module in found] == [nn.ConvTranspose2d, nn.BatchNorm2d]


def test_a_normed_layer_answers_for_what_the_layer_has() -> None:
    layer = nn.Conv2d(3, 4, 3, stride=2, bias=False)
    found = Normed(layer, nn.BatchNorm2d(4))
    assert found.weight is layer.weight
    assert found.bias is None
    assert (found.in_channels, found.stride, found.kernel_size) == (3, (2, 2), (3, 3))
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = found.no_such_thing
    assert next(iter(found.state_dict())) == "layer.weight"


def test_a_normed_layer_is_in_its_layer_s_mode() -> None:
    assert not Normed(nn.Linear(2, 2).eval(), nn.BatchNorm1d(2).eval()).training
    assert Normed(nn.Linear(2, 2), nn.BatchNorm1d(2)).training


def test_a_normed_layer_can_be_copied_and_pickled() -> None:
    found = Normed(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
    x = torch.randn(4, 2)
    unpickled = pickle.loads(pickle.dumps(found))  # noqa: S301
    for other in (copy.deepcopy(found), unpickled):
        assert other.out_features == 3
        assert torch.equal(other(x), found(x))


def test_only_stock_norms_are_known_to_do_nothing_but_normalise() -> None:
    class More(nn.BatchNorm2d):
        pass

    assert is_fixed_norm(nn.BatchNorm3d(2))
    assert is_fixed_norm(nn.SyncBatchNorm(2))
    assert is_fixed_norm(ChannelsLastBatchNorm1d(2))
    assert not is_fixed_norm(More(2))
    assert not is_fixed_norm(nn.InstanceNorm2d(2))
    assert not is_fixed_norm(nn.LayerNorm(2))
