"""What the tests ask of any model: its parts, what it answers, and whether anything about it has changed."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit import FoldPlan
from bnretrofit.capture import capture
from bnretrofit.foldable import find_folds


def part(model: nn.Module, name: str) -> Any:
    """A submodule, as whatever it is."""
    return model.get_submodule(name)


def norms_of(model: nn.Module) -> Iterator[Any]:
    return (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))


def randomised(model: nn.Module) -> nn.Module:
    """The model in eval mode, with BatchNorms as training might have left them."""
    with torch.no_grad():
        for norm in norms_of(model):
            if norm.running_var is not None:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.3, 3.0)
            if norm.weight is not None:
                norm.weight.uniform_(0.4, 2.0).mul_(torch.randn_like(norm.weight).sign())
                norm.bias.normal_()
    return model.eval()


def observed(model: nn.Module) -> Any:
    """Everything about a model that must not change under a function that takes it: to be compared with `same`."""
    modules = [
        (name, type(module), module.training, tuple(map(dict, (module._forward_hooks, module._forward_pre_hooks))))
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    tensors = [
        (name, id(tensor), tensor.requires_grad, tensor.detach().clone())
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    ]
    return modules, tensors, sorted(vars(model))


def same(before: Any, after: Any) -> bool:
    """Whether two observations of a model agree."""
    tensors = zip(before[1], after[1], strict=True)
    return (
        before[0] == after[0]
        and before[2] == after[2]
        and all(old[:3] == new[:3] and torch.equal(old[3], new[3]) for old, new in tensors)
    )


def storages(model: nn.Module) -> set[int]:
    """Addresses of the memory that a model's tensors live in."""
    return {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers()) if tensor.numel()}


def equal_states(a: nn.Module, b: nn.Module) -> bool:
    """The same keys, and the same tensors bit for bit."""
    mine, other = a.state_dict(), b.state_dict()
    return list(mine) == list(other) and all(
        mine[name].dtype == other[name].dtype and torch.equal(mine[name], other[name]) for name in mine
    )


def run(model: nn.Module, *inputs: Any) -> Any:
    """What a model answers in eval mode, without gradients."""
    with torch.no_grad():
        return model.eval()(*inputs)


def planned(model: nn.Module, x: Tensor, *, allow_new_layers: bool = True) -> FoldPlan:
    """What `fold` would do if it may make new layers."""
    return find_folds(capture(model, x), model, allow_new_layers=allow_new_layers).plan
