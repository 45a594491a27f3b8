"""Copies of a model: one that shares its tensors, and one that shares nothing."""

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from bnretrofit.errors import InputRejectedError

__all__ = ["independent_copy", "load_tensors", "replace_module", "replace_modules", "share_copy"]


def share_copy(model: nn.Module, *, buffers: bool = True) -> nn.Module:
    """A new tree of modules over the very same parameters and buffers: surgery on it leaves the argument alone.

    Args:
        model: Any module.
        buffers: Share the buffers too; False for a copy that is to run, since a model may write to its buffers.

    Returns:
        A copy whose modules, hooks and attributes are its own and whose tensors are the argument's.

    Raises:
        InputRejectedError: Python cannot copy the model.
    """
    shared = (*model.parameters(), *model.buffers()) if buffers else tuple(model.parameters())
    memo: dict[int, object] = {id(tensor): tensor for tensor in shared}
    return _deepcopy(model, memo)


def independent_copy(model: nn.Module) -> nn.Module:
    """A copy that shares no tensor with its argument.

    Raises:
        InputRejectedError: Python cannot copy the model.
    """
    return _deepcopy(model, {})


def _deepcopy(model: nn.Module, memo: dict[int, object]) -> nn.Module:
    # Some modules keep a computed, non-leaf tensor as a plain attribute (old weight_norm), which deepcopy refuses.
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        result = copy.deepcopy(model, memo)
    except Exception as error:
        raise InputRejectedError(
            f"the {type(model).__name__} cannot be copied",
            why=str(error).splitlines()[0] if str(error) else type(error).__name__,
            remedy="remove from the model what Python's copy.deepcopy cannot copy",
        ) from error
    if result.training is not model.training:
        # torchvision's feature extractors come back in training mode, with the graph for it.
        result.train(model.training)
    for module, found in zip(model.modules(), result.modules(), strict=True):
        found.training = module.training
    return result


def replace_module(root: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put `new` at every place of the tree where `old` stands, and return the root.

    A module that is shared between several places stays shared.
    """
    return replace_modules(root, {old: new})


def replace_modules(root: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Replace many modules in one walk over the tree, in place, and return the root.

    Args:
        root: The tree; its modules are looked up as it is before.
        replacements: What stands in the tree -> what is to stand there, which may hold the module that it replaces.
    """
    for parent in list(root.modules()):
        # named_children would name a child once; one that stands twice in the same parent has two entries here.
        for name, child in list(parent._modules.items()):
            if child is not None:
                parent._modules[name] = replacements.get(child, child)
    return replacements.get(root, root)


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make the given tensors the model's own, strictly and without copying them; tied parameters stay tied.

    Args:
        model: The model, possibly on the meta device; edited in place.
        tensors: A tensor for every key of its state_dict.
    """
    tied: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), []).append(name)
    model.load_state_dict(tensors, strict=True, assign=True)
    for first, *others in tied.values():
        for name in others:
            holder, _, leaf = name.rpartition(".")
            model.get_submodule(holder)._parameters[leaf] = model.get_parameter(first)
