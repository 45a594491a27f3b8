"""What `bnretrofit export` does."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bnretrofit.batches import dtype_of
from bnretrofit.comparison import tolerance_between
from bnretrofit.errors import InputRejectedError, UsageError, VerificationError
from bnretrofit.exporting.onnx_files import onnx_program, operators_in
from bnretrofit.exporting.programs import captured, save_program
from bnretrofit.exporting.timm_folders import save_timm_folder
from bnretrofit.findings import Tried
from bnretrofit.norms import is_batch_norm
from bnretrofit.publishing import PendingFile, PendingFolder, check_place, check_space
from bnretrofit.serialising import serialise
from bnretrofit.trials.alignment import align
from bnretrofit.trials.inputs import EXTREMES, extreme_like, random_like
from bnretrofit.trials.trying import Trials
from bnretrofit.workflows.header import header_for
from bnretrofit.workflows.images import ImageChoice, batches_of, notes_on
from bnretrofit.workflows.opening import ModelChoice, Opened, architecture, example_for, open_model
from bnretrofit.workflows.replaying import How, replay

__all__ = ["FORMATS", "ExportChoice", "Exported", "export_checkpoint"]

FORMATS = {".onnx": "onnx", ".pt2": "pt2", ".safetensors": "safetensors", ".pth": "pth", ".pt": "pth", "": "local-dir"}
"""By the output's suffix; a folder has none."""


@dataclass(frozen=True, slots=True)
class ExportChoice:
    """How a user wants it.

    Attributes:
        format: One of the values of `FORMATS`; None to go by the output's name.
        opset: Of ONNX; None for the exporter's own.
        check_compile: Also run the model through torch.compile, and compare.
        force: Publish what is not the same function.
    """

    format: str | None = None
    opset: int | None = None
    check_compile: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of it.

    Attributes:
        model: The model's name.
        format: Of the output.
        stage: Of the checkpoint: "original", "retrofitted", "finetuned" or "folded".
        shape: Of one input; a batch may be of any size.
        norms: BatchNorms that are left in what was exported.
        passed: The file gave what the model gives, in a process of its own.
        tried: On which inputs, and how far they were apart.
        compiled: The same for torch.compile; None where it was not asked for.
        reason: What is wrong; None if nothing is.
        notes: What was assumed.
    """

    model: str
    format: str
    stage: str
    shape: tuple[int, ...]
    norms: int
    passed: bool
    tried: tuple[Tried, ...]
    compiled: tuple[Tried, ...] | None
    reason: str | None
    notes: tuple[str, ...]


def export_checkpoint(
    path: Path | None,
    model: ModelChoice,
    images: ImageChoice,
    output: Path,
    choice: ExportChoice,
    *,
    overwrite: bool,
) -> Exported:
    """Export a checkpoint, and hold what was written against it in a process of its own.

    Args:
        path: The checkpoint; None to take the library's own weights.
        model: What the user said of the model.
        images: On which both are run, besides random and extreme inputs.
        output: The file, or the folder.
        choice: How.
        overwrite: Replace an output that exists.

    Returns:
        What came of it.

    Raises:
        VerificationError: What was written is not the same function; nothing is left of it.
        RetrofitError: It cannot be exported, or not to there.
    """
    form = choice.format or FORMATS.get(output.suffix)
    if form is None:
        names = ", ".join(filter(None, FORMATS))
        raise UsageError(f"the format is not known by the name '{output.name}'", remedy=f"name it {names}, or --format")
    if choice.check_compile and form == "onnx":
        raise UsageError("torch.compile is not for ONNX files", remedy="check it with an output named .pt2")
    output = output if output.name not in ("", "..") else output.resolve()
    own = PendingFolder.own if form == "local-dir" else None
    check_place(output, overwrite=overwrite, own=own, inputs=(path, model.read_from))
    opened = open_model(path, model)
    network = opened.model.eval()
    align((network,))
    preprocessing = images.preprocessing(opened.preprocessing)
    opened = replace(opened, preprocessing=preprocessing)
    example = example_for(preprocessing, network).to(dtype_of(network))
    notes, inputs = list(opened.notes), {}
    if images.folder is not None:
        batches = batches_of(images, preprocessing)
        given = [batch.to(example.dtype) for batch in batches]
        # Where images keep their sizes, the first one's is what is exported.
        example = given[0][:1]
        same = [batch for batch in given if batch.shape[1:] == example.shape[1:]]
        if len(same) < len(given):
            notes.append(f"only images of {example.shape[2]} x {example.shape[3]} px were run: so much is exported")
        inputs = {f"given {number}": batch for number, batch in enumerate(same)}
        notes += notes_on(batches)
    like = next(iter(inputs.values()), example.expand(4, *example.shape[1:]))
    inputs |= {"random": random_like(like)}
    inputs |= {kind: extreme_like(kind, like, {dtype_of(network)}) for kind in EXTREMES}
    # Every shape is compiled anew.
    usual = {name: batch for name, batch in inputs.items() if name not in EXTREMES}
    how = How(
        _opened_as(form),
        str(opened.name),
        opened.num_classes,
        trust_code=model.trust_code,
        submodule=opened.submodule,
        threads=torch.get_num_threads(),
    )
    check_space(output, network.state_dict())
    pending = PendingFolder if form == "local-dir" else PendingFile
    with pending(output, _writing(form, opened, example, choice), overwrite=overwrite) as made:
        trials = _tried(network, made.made(), how, inputs)
        compiled = _tried(network, made.made(), replace(how, compiled=True), usual) if choice.check_compile else None
        norms = _norms_left(form, made.made(), network)
        reason = next(iter(trials.reasons().values()), None)
        if form == "onnx" and norms > _norms_left("", made.made(), network):
            reason = f"the exporter made {norms} norms, more than the model has"
        if reason is None and compiled is not None:
            reason = next((f"compiled, {reason}" for reason in compiled.reasons().values()), None)
        if reason is not None and not choice.force:
            raise VerificationError("what was exported is not the same function", where=output.name, why=reason)
        made.publish()
    return Exported(
        str(opened.name),
        form,
        opened.stage,
        tuple(example.shape),
        norms,
        reason is None,
        trials.found(),
        None if compiled is None else compiled.found(),
        reason,
        (*notes, *trials.notes),
    )


def _opened_as(form: str) -> str:
    return "checkpoint" if form in ("safetensors", "pth") else form


def _writing(form: str, opened: Opened, example: Tensor, choice: ExportChoice) -> Callable[[Path], None]:
    """What writes the output to a path. All that may be refused is done before."""
    if form == "onnx":
        return onnx_program(opened.model, example, choice.opset)
    if form == "pt2":
        return save_program(captured(opened.model, example))
    if form == "local-dir":
        model = _timm_model(opened)
        return lambda folder: save_timm_folder(folder, model, opened.preprocessing)
    header = header_for(
        opened,
        stage=opened.stage,
        model=str(opened.name),
        preprocessing=opened.preprocessing,
        changes=opened.changes,
        plan=opened.plan,
    )
    known = header if opened.stage != "original" else None
    return lambda path: serialise(path, opened.tensors_with(opened.model), lambda: known)


def _timm_model(opened: Opened) -> nn.Module:
    """The model, if it is one of timm's own architectures: nobody else's opens from such a folder."""
    if opened.name.library not in ("timm", "hf-hub", "local-dir"):
        raise UsageError(f"timm's layout is for timm's models, and this is {opened.name}", remedy="export it as .onnx")
    stock = architecture(ModelChoice(str(opened.name), None, opened.num_classes)).model.state_dict().keys()
    here = opened.model.state_dict().keys()
    if stock != here:
        odd = min(stock ^ here)
        raise InputRejectedError(
            "timm could not open the folder: the model is not timm's own architecture",
            where=odd,
            remedy="fold what was inserted first",
        )
    return opened.model


def _norms_left(form: str, path: Path, network: nn.Module) -> int:
    if form == "onnx":
        return operators_in(path)["BatchNormalization"]
    return sum(is_batch_norm(module) for module in network.modules())


def _tried(network: nn.Module, path: Path, how: How, inputs: dict[str, Tensor]) -> Trials:
    """Both outputs for every input, compared."""
    trials = Trials((network, network), tolerance_between(dtype_of(network), dtype_of(network), None, None))
    theirs = replay(path, how, inputs)
    for name, batch in inputs.items():
        with torch.inference_mode():
            mine: list[Any] = tree_leaves(network(batch.clone()))
        trials.add(name.partition(" ")[0], batch, (mine, list(theirs[name])))
    trials.measure_floors()
    return trials
