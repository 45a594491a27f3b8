"""A checkpoint file, a model's name, or both -> a model ready to be worked on."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.batches import Batch
from bnretrofit.checkpoints import Checkpoint, read
from bnretrofit.copies import load_tensors, replace_module
from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.layers import kind_of, norm_for
from bnretrofit.planning import make_plan
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.sites import Plan
from bnretrofit.surgery import place_norms, record_plan
from bnretrofit.zoo import ModelName, build, parse_model, similar_models

__all__ = ["ModelChoice", "Opened", "architecture", "example_for", "open_model"]


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """What a user said of the model.

    Attributes:
        name: Its name, as `zoo.parse_model` takes it; None if a file's header says it.
        weights: The library's own weights, instead of a checkpoint.
        num_classes: Outputs of the classifier, where not the library's.
        trust_code: Permit running a Python file.
    """

    name: str | None = None
    weights: str | None = None
    num_classes: int | None = None
    trust_code: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """A model with all that is known of it.

    Attributes:
        model: In eval mode, on the CPU.
        name: Which architecture.
        preprocessing: Of its images.
        stage: "original", "retrofitted" or "folded".
        checkpoint: The file it came from; None for a library's own weights.
        plan: With which it was retrofitted.
        num_classes: As it was built.
        folded: What folding changed in the architecture: `identities` and `biases`, module names.
        notes: What was assumed, to be told to the user.
    """

    model: nn.Module
    name: ModelName
    preprocessing: Preprocessing
    stage: str = "original"
    checkpoint: Checkpoint | None = None
    plan: Plan | None = None
    num_classes: int | None = None
    folded: dict[str, list[str]] = field(default_factory=lambda: {"identities": [], "biases": []})
    notes: tuple[str, ...] = ()


def architecture(choice: ModelChoice) -> Opened:
    """The architecture alone, on the meta device: for planning, and for twins.

    Raises:
        UsageError: No name was given, or none is known by it.
    """
    if choice.name is None:
        raise UsageError("no model was named", remedy="pass -m MODEL, for example -m torchvision:vgg16")
    name = parse_model(choice.name)
    built = build(name, num_classes=choice.num_classes, trust_code=choice.trust_code, device="meta")
    notes = (name.note,) if name.note else ()
    return Opened(built.model, name, built.preprocessing, num_classes=choice.num_classes, notes=notes)


def open_model(path: Path | None, choice: ModelChoice) -> Opened:
    """Open a checkpoint, or a library's own weights.

    What a file's bnretrofit header says wins over `choice`.

    Args:
        path: The checkpoint; None to take `choice.weights`.
        choice: What the user said of the model.

    Returns:
        The model with its tensors.

    Raises:
        UsageError: The model is not known, or nothing says which it is.
        InputRejectedError: The file is damaged or of another architecture.
    """
    if path is None:
        return _pretrained(choice)
    checkpoint = read(path)
    if checkpoint.header is not None:
        return _from_header(checkpoint, checkpoint.header, choice)
    if choice.name is None:
        raise UsageError(
            "the file does not say which model it is",
            where=str(path),
            remedy="pass -m MODEL, for example -m torchvision:vgg16",
        )
    name = parse_model(choice.name)
    notes = (*((name.note,) if name.note else ()), *checkpoint.notes)
    opened = Opened(
        nn.Identity(),
        name,
        Preprocessing((3, None, None)),
        checkpoint=checkpoint,
        num_classes=choice.num_classes,
        notes=notes,
    )
    inserted = sorted(
        key.removesuffix(".norm.running_mean") for key in checkpoint.tensors if key.endswith(".norm.running_mean")
    )
    inserted = [layer for layer in inserted if f"{layer}.layer.weight" in checkpoint.tensors]
    return _loaded(opened, checkpoint, choice, inserted=inserted or None)


def example_for(preprocessing: Preprocessing, model: nn.Module) -> Batch:
    """A batch of one image of zeros, of the size the preprocessing says or, without one, 224 px."""
    channels, height, width = preprocessing.input_size
    parameter = next(model.parameters(), torch.zeros(()))
    return torch.zeros(1, channels, height or 224, width or 224, device=parameter.device)


def _pretrained(choice: ModelChoice) -> Opened:
    if choice.weights is None:
        raise UsageError(
            "neither a checkpoint nor --weights was given", remedy="pass a CHECKPOINT, or --weights DEFAULT"
        )
    if choice.name is None:
        raise UsageError("no model was named", remedy="pass -m MODEL")
    name = parse_model(choice.name)
    built = build(name, weights=choice.weights, num_classes=choice.num_classes, trust_code=choice.trust_code)
    notes = (name.note,) if name.note else ()
    return Opened(built.model, name, built.preprocessing, num_classes=choice.num_classes, notes=notes)


def _from_header(checkpoint: Checkpoint, header: dict[str, Any], choice: ModelChoice) -> Opened:
    try:
        stage, written, num_classes = str(header["stage"]), str(header["model"]), header["num_classes"]
        preprocessing = Preprocessing.from_json(header["preprocessing"])
        plan = None if header["plan"] is None else Plan.from_json(header["plan"])
        folded = {key: [str(name) for name in header["folded"][key]] for key in ("identities", "biases")}
    except (KeyError, TypeError) as error:
        raise InputRejectedError(
            "the file's bnretrofit header is damaged",
            where=str(checkpoint.path),
            why=f"{type(error).__name__}: {error}",
        ) from error
    notes = list(checkpoint.notes)
    if choice.name is not None and str(parse_model(choice.name)) != written:
        notes.append(f"the file says it is {written}; -m {choice.name} was not used")
    opened = Opened(
        nn.Identity(), parse_model(written), preprocessing, stage, checkpoint, plan, num_classes, folded, tuple(notes)
    )
    loaded = _loaded(opened, checkpoint, replace(choice, num_classes=num_classes))
    return replace(loaded, preprocessing=preprocessing)


def _loaded(opened: Opened, checkpoint: Checkpoint, choice: ModelChoice, inserted: list[str] | None = None) -> Opened:
    """Build the architecture on the meta device and give it the file's tensors; for real, where some stay on meta."""
    for device in ("meta", "cpu"):
        built = build(opened.name, num_classes=choice.num_classes, trust_code=choice.trust_code, device=device)
        plan = opened.plan
        if inserted is not None:
            plan = make_plan(built.model, example_for(built.preprocessing, built.model), include=inserted)
        model = _restructured(built.model, plan, opened.folded)
        _load(model, checkpoint, opened.name)
        if not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
            break
    stage = "retrofitted" if inserted is not None else opened.stage
    if plan is not None and stage == "retrofitted":
        record_plan(model, plan)
    return replace(opened, model=model.eval(), preprocessing=built.preprocessing, plan=plan, stage=stage)


def _restructured(model: nn.Module, plan: Plan | None, folded: dict[str, list[str]]) -> nn.Module:
    """Give a stock architecture the form a file of ours has: norms inserted, or norms and biases folded."""
    try:
        if plan is not None and plan.twin is None:
            model = place_norms(
                model,
                plan.sites,
                {site.name: norm_for(site.norm, site.channels, model.get_submodule(site.name)) for site in plan.sites},
            )
        for name in folded["identities"]:
            model = replace_module(model, model.get_submodule(name), nn.Identity())
        for name in folded["biases"]:
            layer = model.get_submodule(name)
            weight, kind = layer.get_parameter("weight"), kind_of(layer)
            channels = 0 if kind is None else kind.channels(layer)
            layer.register_parameter("bias", nn.Parameter(weight.new_zeros(channels)))
    except (AttributeError, KeyError) as error:
        raise InputRejectedError("the file's plan does not fit its model", why=str(error)) from error
    return model


def _load(model: nn.Module, checkpoint: Checkpoint, name: ModelName) -> None:
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
    tensors = {key: _as_expected(tensor, expected[key]) for key, tensor in checkpoint.tensors.items()}
    load_tensors(model, tensors)


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
    nearest = similar_models(name, shapes, hint=checkpoint.path.stem)
    remedy = f"the nearest architecture is {nearest}" if nearest else "pass the model it was trained as with -m"
    if nearest == str(name):
        remedy = f"it is nearest to {name} itself; was it trained with another head? See --num-classes"
    return InputRejectedError(
        f"the checkpoint is not a {name}", where=str(checkpoint.path), why="; ".join(parts), remedy=remedy
    )
