"""The state of a run <-> tensors by name and a JSON document, so that it is kept as safely as any checkpoint.

Learning rates, sums and counts go through JSON, which keeps every bit of a finite float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.errors import InputRejectedError
from bnretrofit.training.history import History

__all__ = ["Progress", "SavedRun", "restore_optimizer", "restored", "saved"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is.

    Attributes:
        epoch: Epochs done.
        batch: Steps done of the epoch that has begun.
        step: Steps done in all.
        loss_sum: Of the losses of the steps of the epoch that has begun.
        history: Of the epochs done.
        finished: Whether there is nothing left to be trained.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    history: History = field(default_factory=History)
    finished: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        names = ("epoch", "batch", "step", "loss_sum", "finished")
        return {**{name: getattr(self, name) for name in names}, "history": self.history.to_json()}

    @classmethod
    def from_json(cls, document: Any) -> "Progress":
        """What `to_json` wrote.

        Raises:
            InputRejectedError: The document is of another form.
        """
        try:
            return cls(**{**document, "history": History.from_json(document["history"])})
        except (KeyError, TypeError) as error:
            raise InputRejectedError("the stored progress of a run is damaged", why=str(error)) from error


@dataclass(frozen=True, slots=True)
class SavedRun:
    """All that a run needs to go on: tensors by name, the rest as a JSON document."""

    tensors: dict[str, Tensor]
    document: dict[str, Any]

    @property
    def progress(self) -> Progress:
        """Where it was."""
        return Progress.from_json(self.document["progress"])


def saved(
    progress: Progress,
    model: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    scaler: Mapping[str, Any],
) -> SavedRun:
    """The state of a run, on the CPU and independent of it."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    state = optimizer.state_dict()
    rest: dict[str, dict[str, Any]] = {}
    for number, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{name}"] = value
            else:
                rest.setdefault(str(number), {})[name] = value
    groups = [{name: value for name, value in group.items() if name != "params"} for group in state["param_groups"]]
    for number, group in enumerate(groups):
        # LAMB counts its steps there.
        for name in [name for name, value in group.items() if isinstance(value, Tensor)]:
            tensors[f"group.{number}.{name}"] = group.pop(name)
    document = {"progress": progress.to_json(), "groups": groups, "rest": rest, "scaler": dict(scaler)}
    # A file holds none of it, and sums in another order round otherwise.
    document["strides"] = {name: list(tensor.stride()) for name, tensor in tensors.items() if _is_permuted(tensor)}
    return SavedRun({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, document)


def _is_permuted(tensor: Tensor) -> bool:
    """Whether a tensor has a layout of its own to be kept: each element a place, none of them empty."""
    strides = [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]
    return not tensor.is_contiguous() and all(strides)


def restored(found: SavedRun, model: nn.Module, average: nn.Module | None) -> None:
    """Give a model, and the average of its weights, what was saved, bit for bit.

    Raises:
        InputRejectedError: It is of another model.
    """
    for prefix, module in (("model.", model), ("average.", average)):
        if module is None:
            continue
        tensors = {name.removeprefix(prefix): each for name, each in found.tensors.items() if name.startswith(prefix)}
        try:
            module.load_state_dict(tensors, strict=True)
        except RuntimeError as error:
            why = str(error).splitlines()[-1].strip()
            raise InputRejectedError("the run's state is of another model", why=why) from error


def restore_optimizer(found: SavedRun, optimizer: torch.optim.Optimizer) -> None:
    """Give an optimiser what was saved, bit for bit.

    Raises:
        InputRejectedError: It is of another optimiser, or of other parameters.
    """
    state: dict[int, dict[str, Any]] = {int(number): dict(rest) for number, rest in found.document["rest"].items()}
    for name, tensor in found.tensors.items():
        if name.startswith("optimizer."):
            _, number, entry = name.split(".", 2)
            stride = found.document.get("strides", {}).get(name, tensor.stride())
            laid_out = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)
            state.setdefault(int(number), {})[entry] = laid_out
    now = optimizer.state_dict()["param_groups"]
    groups = [{**old, "params": new["params"]} for old, new in zip(found.document["groups"], now, strict=False)]
    for name, tensor in found.tensors.items():
        if name.startswith("group."):
            _, at, entry = name.split(".", 2)
            groups[int(at)][entry] = tensor
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (ValueError, KeyError) as error:
        raise InputRejectedError("the run's state is of another optimiser", why=str(error)) from error
    _keep_dtypes(state, optimizer)


def _keep_dtypes(state: Mapping[int, Mapping[str, Any]], optimizer: torch.optim.Optimizer) -> None:
    """Torch gives what it loads the dtype of the parameter, which not all of an optimiser's tensors have."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # Timm's Lookahead has the states in the optimiser that it wraps.
    states = getattr(optimizer, "_base_optimizer", optimizer).state
    for number, entries in state.items():
        loaded = states.get(parameters[number], {})
        for name, value in entries.items():
            if isinstance(value, Tensor) and name in loaded and loaded[name].dtype != value.dtype:
                loaded[name] = value.to(loaded[name].device)
