"""What `bnretrofit fold` does: fold, verify, and only then write."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bnretrofit.batches import checked_device
from bnretrofit.data import ImageBatches, find_images
from bnretrofit.folding import FoldedModel, fold_captured
from bnretrofit.memory import splits_noted
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.publishing import PendingOutput, check_output, check_space
from bnretrofit.recalibration import Recalibrated, recalibrate
from bnretrofit.sites import FoldPlan
from bnretrofit.verification import verify_labelled
from bnretrofit.workflows.changing import changes_by, fold_record, new_keys, plan_left
from bnretrofit.workflows.comparing import Compared, compare, failed
from bnretrofit.workflows.header import header_for
from bnretrofit.workflows.images import ImageChoice, batches_of, notes_on
from bnretrofit.workflows.opening import ModelChoice, architecture, example_for, open_model
from bnretrofit.workflows.written import Changes

__all__ = ["FoldChoice", "Folded", "fold_checkpoint"]

RECALIBRATION_IMAGES = 1000
UNLIKELY = 100.0
"""A tenth of what is refused: a norm of weight 1 reaches 316 where its running variance is nought."""


@dataclass(frozen=True, slots=True)
class FoldChoice:
    """How a user wants a checkpoint folded.

    Attributes:
        like: Name of the architecture the result is to have.
        force: Fold scales beyond the limit too, and write even if verification fails.
        allow_new_layers: Permit layers that the architecture does not have (see `folding.fold`).
        recalibrate_on: Folder of images on which the running statistics are measured again before folding.
    """

    like: str | None = None
    force: bool = False
    allow_new_layers: bool = False
    recalibrate_on: Path | None = None


@dataclass(frozen=True, slots=True)
class Folded:
    """What was done.

    Attributes:
        plan: Which norms were folded.
        model: The result's architecture.
        compared: What verification found.
        output: The file.
        notes: What was assumed.
        recalibrated: What was measured again before folding, where it was asked for.
        new_keys: Keys of the result that the file did not have, but for a twin's other names.
    """

    plan: FoldPlan
    model: str
    compared: Compared
    output: Path
    notes: tuple[str, ...]
    recalibrated: Recalibrated | None = None
    new_keys: tuple[str, ...] = ()


def fold_checkpoint(
    path: Path,
    model: ModelChoice,
    images: ImageChoice,
    output: Path,
    choice: FoldChoice,
    *,
    overwrite: bool = False,
    device: str = "cpu",
) -> Folded:
    """Fold every norm of a checkpoint that can be folded.

    Args:
        path: The checkpoint: one of ours, or any network with norms of its own.
        model: What the user said of the model.
        images: What the result is verified on; without a folder, random inputs.
        output: The file to write.
        choice: How to fold.
        overwrite: Replace the output if it exists.
        device: Where to run.

    Returns:
        What was folded, what stayed, and what verification found.

    Raises:
        RetrofitError: The message says what; nothing was written.
    """
    check_output(output, overwrite=overwrite, inputs=(path, model.read_from))
    opened = open_model(path, model)
    check_space(output, opened.tensors_with(opened.model))
    preprocessing = images.preprocessing(opened.preprocessing)
    network = opened.model.to(checked_device(device))
    batches = None if images.folder is None else batches_of(images, preprocessing)
    example = example_for(preprocessing, network) if batches is None else batches.first()[:1]
    preprocessing = preprocessing if batches is None else preprocessing.seen(example)
    folder = choice.recalibrate_on
    with splits_noted() as splits:
        measured = None if folder is None else _recalibrated(network, images, folder, preprocessing)
    network = network if measured is None else measured.model
    target = (
        None
        if choice.like is None
        else architecture(ModelChoice(choice.like, None, opened.num_classes, model.trust_code))
    )
    twin = None if target is None else target.model
    folded = fold_captured(network, example, like=twin, force=choice.force, allow_new_layers=choice.allow_new_layers)
    name = str(opened.name if target is None else target.name)
    changes = Changes() if target is not None else changes_by(opened, network, folded.plan)
    left = None if target is not None else plan_left(opened.plan, folded.plan)

    def header() -> dict[str, Any]:
        return header_for(
            opened,
            stage="folded",
            model=name,
            preprocessing=preprocessing,
            changes=changes,
            plan=left,
            folds=fold_record(opened, network, folded.plan, renamed=target is not None),
        )

    with PendingOutput(output, opened.tensors_with(folded.model), header, overwrite=overwrite) as pending:
        compared = _compared(network, folded, example, batches)
        report = compared.report
        if not report.passed and not choice.force:
            raise failed("the folded model is not the same function", report)
        pending.publish()
    notes = (*opened.notes, *splits, *(() if batches is None else notes_on(batches)))
    # A network's own norms may scale as they please; an inserted one begins at 1.
    notes = notes if opened.plan is None else (*notes, *_unlikely(folded.plan))
    return Folded(folded.plan, name, compared, output, notes, measured, new_keys(changes, opened.changes))


def _recalibrated(network: nn.Module, images: ImageChoice, folder: Path, preprocessing: Preprocessing) -> Recalibrated:
    chosen = replace(images, folder=folder, num_images=None)
    files = find_images(folder, images.max_bad_images).sampled(RECALIBRATION_IMAGES, images.seed)
    return recalibrate(network, batches_of(chosen, preprocessing, files))


def _unlikely(plan: FoldPlan) -> tuple[str, ...]:
    """What is told of a scale that is below the limit and yet unlikely."""
    scales = plan.scales
    if scales is None or scales.largest <= UNLIKELY:
        return ()
    found = f"'{scales.norm}' scales a channel by {scales.largest:.0f}: if its running variance lags behind the weights"
    return (f"{found}, the network knows little, and --recalibrate DATA measures it again",)


def _compared(network: nn.Module, folded: FoldedModel, example: Tensor, batches: ImageBatches | None) -> Compared:
    graphs = folded.before, folded.after
    if batches is not None:
        return compare(network, folded.model, batches, graphs=graphs)
    report = verify_labelled(network, folded.model, [], graphs=graphs, example=example)
    return Compared(report, None, ("no images were given (-d): verified by graph, tensors and random inputs",))
