"""A checkpoint file, a model's name, or both -> a model ready to be worked on."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bnretrofit.checkpoints import Checkpoint, read
from bnretrofit.errors import UsageError
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.sites import Plan
from bnretrofit.surgery import record_plan
from bnretrofit.workflows.restoring import has_meta_tensors, load, plan_shown_by_keys, restructured
from bnretrofit.workflows.written import Changes, Written, what_is_written
from bnretrofit.zoo import ModelName, build, parse_model

__all__ = ["ModelChoice", "Opened", "architecture", "counterpart", "example_for", "open_model"]


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """What a user said of the model.

    Attributes:
        name: Its name, as `zoo.parse_model` takes it; None if a file's header says it.
        weights: The library's own weights, instead of a checkpoint.
        num_classes: Outputs of the classifier, where not the library's.
        trust_code: Permit running a Python file.
        otherwise: Its name where neither `name` nor a header says it: a plan file's.
    """

    name: str | None = None
    weights: str | None = None
    num_classes: int | None = None
    trust_code: bool = False
    otherwise: str | None = None


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
        changes: What folding changed in the architecture.
        notes: What was assumed, to be told to the user.
    """

    model: nn.Module
    name: ModelName
    preprocessing: Preprocessing
    stage: str = "original"
    checkpoint: Checkpoint | None = None
    plan: Plan | None = None
    num_classes: int | None = None
    changes: Changes = field(default_factory=Changes)
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


def counterpart(opened: Opened, like: str | None, *, trust_code: bool) -> Opened | None:
    """The architecture that a result is to have, with as many outputs; None if none was named.

    Raises:
        UsageError: None is known by that name.
    """
    return None if like is None else architecture(ModelChoice(like, None, opened.num_classes, trust_code))


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
    named = replace(choice, name=choice.name or choice.otherwise)
    if path is None:
        return _pretrained(named)
    checkpoint = read(path)
    written = what_is_written(checkpoint)
    if written is not None:
        return _from_header(checkpoint, written, choice)
    if named.name is None:
        raise UsageError(
            "the file does not say which model it is",
            where=str(path),
            remedy="pass -m MODEL, for example -m torchvision:vgg16",
        )
    name = parse_model(named.name)
    notes = (*((name.note,) if name.note else ()), *checkpoint.notes)
    return _loaded(name, checkpoint, named, notes)


def example_for(preprocessing: Preprocessing, model: nn.Module) -> Tensor:
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


def _from_header(checkpoint: Checkpoint, written: Written, choice: ModelChoice) -> Opened:
    notes = list(checkpoint.notes)
    name = parse_model(written.model)
    asked = None if choice.name is None else parse_model(choice.name)
    if asked is not None and str(asked) != written.model:
        if name.library == asked.library == "file":
            # What --trust-code trusts is the file the user names; the header's path may be gone, or somebody else's.
            name = asked
            notes.append(f"the file says it is {written.model}; it was opened as {asked}")
        else:
            notes.append(f"the file says it is {written.model}; -m {choice.name} was not used")
    choice = replace(choice, num_classes=written.num_classes)
    return replace(_loaded(name, checkpoint, choice, tuple(notes), written), preprocessing=written.preprocessing)


def _loaded(
    name: ModelName, checkpoint: Checkpoint, choice: ModelChoice, notes: tuple[str, ...], written: Written | None = None
) -> Opened:
    """Build the architecture on the meta device and give it the file's tensors; for real, where some stay on meta."""
    model, preprocessing, plan, stage = _restored(name, checkpoint, choice, written, "meta")
    if has_meta_tensors(model):
        model, preprocessing, plan, stage = _restored(name, checkpoint, choice, written, "cpu")
    if plan is not None and stage == "retrofitted":
        record_plan(model, plan)
    changes = Changes() if written is None else written.changes
    return Opened(model.eval(), name, preprocessing, stage, checkpoint, plan, choice.num_classes, changes, notes)


def _restored(
    name: ModelName, checkpoint: Checkpoint, choice: ModelChoice, written: Written | None, device: str
) -> tuple[nn.Module, Preprocessing, Plan | None, str]:
    built = build(name, num_classes=choice.num_classes, trust_code=choice.trust_code, device=device)
    plan, stage, changes = None, "original", Changes()
    if written is not None:
        plan, stage, changes = written.plan, written.stage, written.changes
    else:
        plan = plan_shown_by_keys(checkpoint, built.model, example_for(built.preprocessing, built.model))
        stage = "original" if plan is None else "retrofitted"
    model = restructured(built.model, plan, changes)
    load(model, checkpoint, name)
    return model, built.preprocessing, plan, stage
