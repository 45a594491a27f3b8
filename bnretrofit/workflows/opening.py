"""A checkpoint file, a model's name, or both -> a model ready to be worked on."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bnretrofit.checkpoints import Checkpoint, read
from bnretrofit.choices import nearest
from bnretrofit.copies import replace_module, share_copy
from bnretrofit.errors import RetrofitError, UsageError
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.sites import Plan
from bnretrofit.surgery import record_plan
from bnretrofit.workflows.restoring import (
    conversions,
    has_meta_tensors,
    head_size,
    load,
    plan_shown_by_keys,
    restructured,
)
from bnretrofit.workflows.written import Changes, Written, what_is_written
from bnretrofit.zoo import ModelName, build, parse_model, place_in

__all__ = ["ModelChoice", "Opened", "architecture", "counterpart", "example_for", "open_model", "part_of"]


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """What a user said of the model.

    Attributes:
        name: Its name, as `zoo.parse_model` takes it; None if a file's header says it.
        weights: The library's own weights, instead of a checkpoint.
        num_classes: Outputs of the classifier, where not the library's.
        trust_code: Permit running a Python file.
        otherwise: Its name where neither `name` nor a header says it: a plan file's.
        submodule: The part of it that is meant, by module name; empty for all of it.
        state_dict_key: Dotted keys of the state_dict in a training checkpoint; None to find it.
        use_ema: Prefer averaged weights, where a checkpoint has any.
    """

    name: str | None = None
    weights: str | None = None
    num_classes: int | None = None
    trust_code: bool = False
    otherwise: str | None = None
    submodule: str = ""
    state_dict_key: str | None = None
    use_ema: bool = True

    @property
    def read_from(self) -> Path | None:
        """The file or folder that the name is of; None for a library's."""
        return None if self.name is None else place_in(self.name)


@dataclass(frozen=True, slots=True)
class Opened:
    """A model with all that is known of it.

    Attributes:
        model: In eval mode, on the CPU; the part that is meant, where that is not all of it.
        name: Which architecture.
        preprocessing: Of its images.
        stage: "original", "retrofitted", "finetuned" or "folded".
        checkpoint: The file it came from; None for a library's own weights.
        plan: With which it was retrofitted.
        num_classes: As it was built.
        changes: What folding changed in the architecture.
        notes: What was assumed, to be told to the user.
        submodule: The name of the part that is meant; empty for all.
        whole: All of it, where `model` is a part.
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
    submodule: str = ""
    whole: nn.Module | None = None

    @property
    def has_inserted_norms(self) -> bool:
        """Whether all norms of its plan are in it; those of a folded one are what folding left."""
        return self.plan is not None and self.stage in ("retrofitted", "finetuned")

    def tensors_with(self, part: nn.Module) -> dict[str, Tensor]:
        """All tensors of the model, with another module in place of `model`."""
        if self.whole is None:
            return part.state_dict()
        copy = share_copy(self.whole)
        return replace_module(copy, copy.get_submodule(self.submodule), part).state_dict()


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
    opened = Opened(built.model, name, built.preprocessing, num_classes=choice.num_classes, notes=notes)
    return part_of(opened, choice.submodule)


def counterpart(opened: Opened, like: str | None, *, trust_code: bool) -> Opened | None:
    """The architecture that a result is to have, with as many outputs; None if none was named.

    Raises:
        UsageError: None is known by that name.
    """
    if like is not None and opened.submodule:
        raise UsageError("--like and --submodule exclude each other", why="the other architecture is one of the whole")
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
    checkpoint = read(path, state_dict_key=choice.state_dict_key, use_ema=choice.use_ema)
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
    """A batch of one image of zeros, of the size the preprocessing says or has seen; 224 px where it does not know."""
    channels, height, width = preprocessing.input_size
    if height is None or width is None:
        height, width = preprocessing.stored_size or (224, 224)
    parameter = next(model.parameters(), torch.zeros(()))
    return torch.zeros(1, channels, height, width, device=parameter.device)


def part_of(opened: Opened, name: str) -> Opened:
    """A model with one of its modules as what is meant; the model itself for an empty name.

    Raises:
        UsageError: The model has no such module.
    """
    if not name:
        return opened
    known = [known for known, _ in opened.model.named_modules() if known]
    if name not in known:
        hint = nearest(name, known) or None
        raise UsageError(f"the model has no submodule '{name}'", where=str(opened.name), remedy=hint)
    return replace(opened, model=opened.model.get_submodule(name), submodule=name, whole=opened.model)


def _pretrained(choice: ModelChoice) -> Opened:
    if choice.weights is None:
        raise UsageError(
            "neither a checkpoint nor --weights was given", remedy="pass a CHECKPOINT, or --weights DEFAULT"
        )
    if choice.name is None:
        raise UsageError("no model was named", remedy="pass -m MODEL")
    name = parse_model(choice.name)
    # A library draws a new head where the weights have none of that size: always the same one.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build(name, weights=choice.weights, num_classes=choice.num_classes, trust_code=choice.trust_code)
    notes = (name.note,) if name.note else ()
    opened = Opened(built.model, name, built.preprocessing, num_classes=choice.num_classes, notes=notes)
    return part_of(opened, choice.submodule)


def _from_header(checkpoint: Checkpoint, written: Written, choice: ModelChoice) -> Opened:
    notes = list(checkpoint.notes)
    training = (checkpoint.header or {}).get("training")
    if isinstance(training, Mapping) and training.get("statistics") == "running":
        notes.append(
            "the run that the weights are of had not ended: finetune --resume ends it, and measures running statistics "
            "again, which may lag behind the weights (as fold --recalibrate does)"
        )
    asked = None if choice.name is None else parse_model(choice.name)
    if asked is not None and _is_of_one_kind(str(asked), written.model):
        # What --trust-code trusts is the file the user names; the header's path may be gone, or somebody else's.
        name = asked
        if str(asked) != written.model:
            notes.append(f"the file says it is {written.model}; it was opened as {asked}")
    else:
        name = parse_model(written.model)
        if asked is not None and str(asked) != written.model:
            notes.append(f"the file says it is {written.model}; -m {choice.name} was not used")
    if choice.submodule and choice.submodule != written.submodule:
        meant = f"'{written.submodule}'" if written.submodule else "all of it"
        notes.append(f"the file was made of {meant}; --submodule {choice.submodule} was not used")
    choice = replace(choice, num_classes=written.num_classes, submodule=written.submodule)
    return replace(_loaded(name, checkpoint, choice, tuple(notes), written), preprocessing=written.preprocessing)


def _is_of_one_kind(name: str, other: str) -> bool:
    """Whether two names are both of a Python file, or both of a folder of timm's."""
    folders = [each.startswith("local-dir:") for each in (name, other)]
    return None not in (place_in(name), place_in(other)) and folders[0] == folders[1]


def _loaded(
    name: ModelName, checkpoint: Checkpoint, choice: ModelChoice, notes: tuple[str, ...], written: Written | None = None
) -> Opened:
    """Build the architecture on the meta device and give it the file's tensors; for real, where some stay on meta."""
    opened = _restored(name, checkpoint, choice, written, "meta")
    if has_meta_tensors(opened.model if opened.whole is None else opened.whole):
        opened = _restored(name, checkpoint, choice, written, "cpu")
    if opened.has_inserted_norms and opened.plan is not None:
        record_plan(opened.model, opened.plan)
    opened.model.eval()
    if opened.num_classes != choice.num_classes:
        notes = (*notes, f"the file's head has {opened.num_classes} outputs: as if --num-classes {opened.num_classes}")
    converted = conversions(opened.model if opened.whole is None else opened.whole, checkpoint.tensors)
    return replace(opened, checkpoint=checkpoint, notes=(*notes, *converted))


def _restored(
    name: ModelName, checkpoint: Checkpoint, choice: ModelChoice, written: Written | None, device: str
) -> Opened:
    classes = choice.num_classes
    built = build(name, num_classes=classes, trust_code=choice.trust_code, device=device)
    found = head_size(built.model, checkpoint.tensors) if classes is None and written is None else None
    if found is not None:
        # A factory may know no such option: then the file's shapes are what is wrong.
        with suppress(RetrofitError):
            built = build(name, num_classes=found, trust_code=choice.trust_code, device=device)
            classes = found
    opened = Opened(built.model, name, built.preprocessing, num_classes=classes)
    opened = part_of(opened, choice.submodule)
    if written is not None:
        opened = replace(opened, plan=written.plan, stage=written.stage, changes=written.changes)
    else:
        example = example_for(built.preprocessing, built.model)
        plan = plan_shown_by_keys(checkpoint, opened.model, example, opened.submodule)
        opened = replace(opened, plan=plan, stage="original" if plan is None else "retrofitted")
    part = restructured(opened.model, opened.plan, opened.changes)
    if opened.whole is not None:
        replace_module(opened.whole, opened.model, part)
    opened = replace(opened, model=part)
    load(part if opened.whole is None else opened.whole, checkpoint, name)
    return opened
