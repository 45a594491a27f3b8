"""An architecture and a file's tensors -> the model, in the form in which the file was written."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bnretrofit.checkpoints import Checkpoint
from bnretrofit.copies import load_tensors, replace_modules
from bnretrofit.errors import InputRejectedError
from bnretrofit.layers import kind_of
from bnretrofit.norms import norm_for, without_norm
from bnretrofit.planning import make_plan
from bnretrofit.sites import Plan
from bnretrofit.standing import Padded
from bnretrofit.surgery import place_norms
from bnretrofit.workflows.written import Changes
from bnretrofit.zoo import ModelName, similar_models

__all__ = ["conversions", "has_meta_tensors", "head_size", "load", "plan_shown_by_keys", "restructured"]


def plan_shown_by_keys(checkpoint: Checkpoint, model: nn.Module, example: Tensor, submodule: str = "") -> Plan | None:
    """The plan with which a file without a header was retrofitted, as its keys show it; None if they show none.

    A network's own modules may bear the same names: those are in the stock architecture.

    Args:
        checkpoint: The file.
        model: The stock architecture, or the part of it that is meant.
        example: One batch.
        submodule: The name of that part; empty for all.
    """
    prefix = f"{submodule}." if submodule else ""
    suffix = ".norm.running_mean"
    own = dict(model.named_modules())
    keys = [key.removeprefix(prefix) for key in checkpoint.tensors if key.startswith(prefix) and key.endswith(suffix)]
    names = [key.removesuffix(suffix) for key in keys]
    names = [name for name in names if name in own and f"{name}.norm" not in own]
    layers = [name for name in names if kind_of(own[name]) is not None]
    if layers:
        return make_plan(model, example, include=layers)
    plan = make_plan(model, example, placement="post") if names else None
    return None if plan is None else replace(plan, sites=tuple(site for site in plan.sites if site.position in names))


def restructured(model: nn.Module, plan: Plan | None, changes: Changes) -> nn.Module:
    """Give a stock architecture the form a file of ours has: norms and biases folded, norms inserted.

    Raises:
        InputRejectedError: The model has no such layers.
    """
    try:
        norms = map(model.get_submodule, changes.identities)
        model = replace_modules(model, {norm: without_norm(norm) for norm in norms})
        for name in changes.biases:
            layer = model.get_submodule(name)
            weight, kind = layer.get_parameter("weight"), kind_of(layer)
            channels = 0 if kind is None else kind.channels(layer)
            layer.register_parameter("bias", nn.Parameter(weight.new_zeros(channels)))
        model = replace_modules(model, {layer: _padded(layer) for layer in map(model.get_submodule, changes.padded)})
        if plan is not None and plan.twin is None:
            made = {
                site.name: norm_for(site.norm, site.channels, model.get_submodule(site.name)) for site in plan.sites
            }
            model = place_norms(model, plan.sites, made)
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise InputRejectedError("the file's plan does not fit its model", why=str(error)) from error
    return model


def _padded(layer: nn.Module) -> nn.Module:
    return Padded(layer, layer.get_parameter("weight").new_zeros(int(str(layer.in_channels))))


def load(model: nn.Module, checkpoint: Checkpoint, name: ModelName) -> None:
    """Give a model a file's tensors, strictly.

    Raises:
        InputRejectedError: Keys or shapes differ; names the first ones, and the nearest architecture.
    """
    expected = model.state_dict()
    missing = [key for key in expected if key not in checkpoint.tensors]
    unexpected = [key for key in checkpoint.tensors if key not in expected]
    wrong = [
        f"'{key}' is {tuple(checkpoint.tensors[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in checkpoint.tensors and checkpoint.tensors[key].shape != value.shape
    ]
    if missing or unexpected or wrong:
        raise _wrong_architecture(checkpoint, name, missing, unexpected, wrong)
    load_tensors(model, {key: _as_expected(tensor, expected[key]) for key, tensor in checkpoint.tensors.items()})


def head_size(model: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """How many outputs a file's head has, where that is all in which it is not the architecture's; None otherwise.

    Given: a `classifier.6.weight` of (10, 4096) in the file, of (1000, 4096) in the architecture. Result: 10.
    """
    expected = {key: value.shape for key, value in model.state_dict().items()}
    shapes = {key: tensors[key].shape for key in expected if key in tensors and tensors[key].shape != expected[key]}
    if not shapes or any(not shape or shape[1:] != expected[key][1:] for key, shape in shapes.items()):
        return None
    sizes = {(expected[key][0], shape[0]) for key, shape in shapes.items()}
    return (sizes.pop()[1] or None) if len(sizes) == 1 else None


def conversions(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """What `load` made of a file's dtypes, as a sentence for each kind; none if it left them."""
    found = Counter(
        (tensors[key].dtype, value.dtype)
        for key, value in model.state_dict().items()
        if key in tensors and tensors[key].dtype != value.dtype
    )
    return tuple(
        f"{count} of the file's tensors are {_name(given)}; the network and the output are {_name(computed)}"
        for (given, computed), count in found.items()
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def has_meta_tensors(model: nn.Module) -> bool:
    """Whether a model holds a tensor without values: a parameter, a buffer, or a plain attribute of a module."""
    return any(tensor.is_meta for tensor in _all_tensors(model))


def _all_tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        for value in vars(module).values():
            yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _as_expected(tensor: Tensor, expected: Tensor) -> Tensor:
    # A file in half precision is computed in the architecture's own precision, as load_state_dict would have it.
    return tensor if tensor.dtype == expected.dtype else tensor.to(expected.dtype)


def _wrong_architecture(
    checkpoint: Checkpoint, name: ModelName, missing: list[str], unexpected: list[str], wrong: list[str]
) -> InputRejectedError:
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors are missing, the first is '{missing[0]}'")
    if unexpected:
        parts.append(f"{len(unexpected)} are unexpected, the first is '{unexpected[0]}'")
    if wrong:
        parts.append(f"{len(wrong)} have another shape, the first: {wrong[0]}")
    shapes = {key: tuple(value.shape) for key, value in checkpoint.tensors.items()}
    nearest = similar_models(name, shapes, hint=checkpoint.path.stem) if missing or unexpected else str(name)
    remedy = f"the nearest architecture is {nearest}" if nearest else "pass the model it was trained as with -m"
    if nearest == str(name):
        remedy = f"it is nearest to {name} itself, so it is one that was changed; a FILE.py:FACTORY can build it"
    return InputRejectedError(
        f"the checkpoint is not a {name}", where=str(checkpoint.path), why="; ".join(parts), remedy=remedy
    )
