"""Frozen statistics in half precision, in channels_last, and what they keep in memory."""

import pytest
import torch
from torch import Tensor, nn

from bnretrofit.training.frozen_statistics import frozen_statistics
from tests.library.frozen_checks import WAYS, gradients, in_eval_mode, scaling
from tests.library.networks import images, with_own_norms
from tests.library.observing import part, randomised


@pytest.mark.parametrize("way", WAYS)
def test_autocast_computes_in_half_precision_and_trains_in_full(way: str) -> None:
    model, x = randomised(nn.Sequential(with_own_norms(), nn.BatchNorm1d(5))), images(8)
    wanted = in_eval_mode(model, x)
    with frozen_statistics(model, x), scaling(way), torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradients(model, x)
    assert got[""].dtype == torch.bfloat16
    for name, tensor in wanted.items():
        assert name == "" or got[name].dtype == torch.float32
        error = (got[name].float() - tensor).norm() / tensor.norm().clamp_min(1e-3)
        assert float(error) < 0.1, name


@pytest.mark.parametrize("way", WAYS)
def test_half_precision_layers_with_norms_in_full_precision(way: str) -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    part(model, "0").bfloat16()
    x = images().bfloat16()
    wanted = model(x)
    with frozen_statistics(model, x), scaling(way):
        torch.testing.assert_close(model(x), wanted, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("way", WAYS)
def test_channels_last_stays(way: str) -> None:
    model, x = randomised(with_own_norms()[:3]).to(memory_format=torch.channels_last), images(4)
    x = x.contiguous(memory_format=torch.channels_last)
    with frozen_statistics(model, x), scaling(way):
        assert model(x).is_contiguous(memory_format=torch.channels_last)
        assert not model(x).is_contiguous()
        model(x).sum().backward()
    assert part(model, "0").weight.grad.is_contiguous(memory_format=torch.channels_last)


def test_the_weight_of_a_large_dense_layer_is_not_copied() -> None:
    model, x = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64)), torch.randn(8, 64)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with frozen_statistics(model, x), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    assert max(tensor.numel() for tensor in kept if tensor.data_ptr() not in parameters) == 8 * 64
