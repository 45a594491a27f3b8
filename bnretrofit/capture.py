"""A model and an example input -> the graph of what it computes: who calls what, on which tensors, and who reads it.

torch.export is the eye: it follows what the model really does, in eval or training mode, through every module.
"""

import gc
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from textwrap import shorten
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from bnretrofit.batches import Batch, as_call, device_of, map_tensors
from bnretrofit.copies import share_copy
from bnretrofit.errors import InputRejectedError
from bnretrofit.frozen import join_frozen_norms

__all__ = ["Graph", "TensorUse", "capture", "inputs_of", "op_of", "refuse_wrapped"]


@dataclass(frozen=True, slots=True)
class TensorUse:
    """A parameter, buffer or constant as the graph reads it.

    Attributes:
        name: Its dotted name in the model.
        tensor: Its value: the captured model's own tensor.
    """

    name: str
    tensor: Tensor


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured model.

    Attributes:
        model: A copy of the model that shares its tensors; its modules answer for the names in the graph.
        nodes: The calls of operators, in the order in which they run.
        output: The node that returns the results.
        inputs: The nodes that stand for the model's inputs.
        tensors: What each node that stands for a parameter, buffer or constant holds.
        owners: The innermost module that ran each call, by its first name in the model.
        output_spec: How the results are arranged: a tensor, a tuple, a dict with these keys.
    """

    model: nn.Module
    nodes: tuple[fx.Node, ...]
    output: fx.Node
    inputs: tuple[fx.Node, ...]
    tensors: dict[fx.Node, TensorUse]
    owners: dict[fx.Node, str]
    output_spec: Any
    _reads: dict[int, list[fx.Node]] = field(init=False, repr=False, compare=False)
    _holders: dict[int, list[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Found once: to look through everything for each layer would take the square of the network's length.
        object.__setattr__(self, "_reads", _by_tensor((use.tensor, node) for node, use in self.tensors.items()))
        object.__setattr__(self, "_holders", _by_tensor(_parameters(self.model)))

    def owner(self, node: fx.Node) -> nn.Module:
        """The innermost module that ran a call."""
        return self.model.get_submodule(self.owners.get(node, ""))

    def place(self, node: fx.Node) -> str:
        """Where a call is made, for messages: "ReLU 'features.1'"."""
        name = self.owners.get(node, "")
        return f"{type(self.owner(node)).__name__} '{name}'" if name else "the model's own forward"

    def tensor(self, argument: Any) -> TensorUse | None:
        """The tensor that an argument stands for; None if it is computed, or no tensor."""
        return self.tensors.get(argument) if isinstance(argument, fx.Node) else None

    def uses(self, tensor: Tensor) -> list[fx.Node]:
        """Every call that reads a tensor of the model, under whichever name."""
        return [user for node in self._reads.get(id(tensor), ()) for user in node.users]

    def holders(self, tensor: Tensor) -> list[str]:
        """Every module of which a tensor is a parameter of its own, by its first name in the model."""
        return self._holders.get(id(tensor), [])


T = TypeVar("T")


def _by_tensor(found: Iterable[tuple[Tensor, T]]) -> dict[int, list[T]]:
    """By the tensor's id: whoever asks holds it, as the graph does."""
    index: dict[int, list[T]] = {}
    for tensor, each in found:
        index.setdefault(id(tensor), []).append(each)
    return index


def _parameters(model: nn.Module) -> Iterator[tuple[Tensor, str]]:
    for name, module in model.named_modules():
        yield from ((tensor, name) for tensor in module._parameters.values() if tensor is not None)


def op_of(node: fx.Node) -> str:
    """Name of a call's operator: "aten.conv2d.default"."""
    return str(node.target)


def inputs_of(node: fx.Node) -> list[fx.Node]:
    """The nodes a call reads, tensors of the model among them, in the order of its arguments."""
    return list(node.all_input_nodes)


def capture(model: nn.Module, example: Batch, *, training: bool = False) -> Graph:
    """Capture what a model computes, without computing it and without touching the model.

    Args:
        model: The model, in whichever mode.
        example: One batch, as the model takes it; only its shapes and dtypes matter.
        training: Capture what runs in training mode instead of in eval mode.

    Returns:
        The graph of a copy of the model that shares its tensors.

    Raises:
        InputRejectedError: The model is scripted, wrapped or cannot be exported.
    """
    refuse_wrapped(model)
    copy = share_copy(model).train(training)
    _forget_callers(copy)
    args, kwargs = as_call(map_tensors(lambda tensor: tensor.to(device_of(model)), example))
    try:
        # When export fails it prints all of the graph so far.
        with warnings.catch_warnings(), torch.no_grad(), _without_collection(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            program = torch.export.export(copy, args, kwargs, strict=False)
    except Exception as error:
        raise InputRejectedError(
            f"the {type(model).__name__} cannot be captured by torch.export",
            why=_first_line(error),
            remedy="check that the example is what the model takes, also in its size (--img-size), and that forward "
            "does not branch on tensor values; a part of the model may be captured where all of it is not",
        ) from error
    return _graph_of(copy, program)


@contextmanager
def _without_collection() -> Iterator[None]:
    # Export makes so many objects that Python searches all modules' own for garbage, for half as long as export takes.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _forget_callers(model: nn.Module) -> None:
    """Take from traced modules what they noted of who called what: export would repeat it, whatever they call now."""
    for module in model.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("nn_module_stack", None)


def refuse_wrapped(model: nn.Module) -> None:
    """Raise where the model stands within something else, whose modules are not to be edited.

    Raises:
        InputRejectedError: It is scripted, compiled or distributed.
    """
    wrappers = (("_orig_mod", "torch.compile"), ("module", "DistributedDataParallel"))
    kinds = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    for attribute, wrapper in wrappers:
        wraps = isinstance(model, kinds) or type(model).__name__ == "OptimizedModule"
        if wraps and hasattr(model, attribute):
            raise InputRejectedError(f"the model is wrapped by {wrapper}", remedy=f"pass model.{attribute}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            remedy = "pass the model before torch.jit"
            raise InputRejectedError(
                "a scripted module has no Python modules to edit", where=name or None, remedy=remedy
            )
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise InputRejectedError(
                "a part of the model is wrapped by DistributedDataParallel", where=name, remedy="unwrap it first"
            )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {shorten(lines[0], 300)}" if lines else type(error).__name__


def _graph_of(model: nn.Module, program: torch.export.ExportedProgram) -> Graph:
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs if hasattr(spec.arg, "name")}
    join_frozen_norms(program.graph, lambda node: spec.target if (spec := specs.get(node.name)) is not None else None)
    nodes = list(program.graph.nodes)
    by_name = {node.name: node for node in nodes}
    tensors: dict[fx.Node, TensorUse] = {}
    inputs: list[fx.Node] = []
    for spec in program.graph_signature.input_specs:
        node = by_name.get(getattr(spec.arg, "name", ""))
        if node is None:
            continue
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(node)
        elif spec.target is not None:
            tensors[node] = TensorUse(spec.target, _tensor_named(model, program, spec.target))
    calls = tuple(node for node in nodes if node.op == "call_function")
    return Graph(model, calls, nodes[-1], tuple(inputs), tensors, _owners(model, calls), program.call_spec.out_spec)


def _tensor_named(model: nn.Module, program: torch.export.ExportedProgram, name: str) -> Tensor:
    # The model's own object where it has one, so that tied tensors are found by identity.
    holder, _, leaf = name.rpartition(".")
    try:
        found = getattr(model.get_submodule(holder), leaf)
    except AttributeError:
        found = None
    if not isinstance(found, Tensor):
        found = program.state_dict.get(name, program.constants.get(name))
    if not isinstance(found, Tensor):
        raise InputRejectedError("the captured graph reads what is no tensor", where=name, why=type(found).__name__)
    return found


def _owners(model: nn.Module, calls: tuple[fx.Node, ...]) -> dict[fx.Node, str]:
    first_names: dict[int, str] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, module in modules.items():
        first_names.setdefault(id(module), name)
    owners = {}
    for node in calls:
        stack = node.meta.get("nn_module_stack") or {}
        # A module's second call is told apart by a suffix: "features.0@1".
        paths = [re.sub(r"@\d+", "", str(entry[0])) for entry in stack.values()]
        known = [path for path in paths if path in modules]
        owners[node] = first_names[id(modules[known[-1]])] if known else ""
    return owners
