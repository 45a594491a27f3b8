"""What `bnretrofit retrofit` does: plan, calibrate, insert, verify, and only then write."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from bnretrofit.batches import checked_device
from bnretrofit.calibration import calibrate
from bnretrofit.comparison import Report
from bnretrofit.data import ImageBatches, ImageFiles
from bnretrofit.errors import UsageError, VerificationError
from bnretrofit.insertion import insert_sharing
from bnretrofit.memory import splits_noted
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.publishing import check_output, check_space, write
from bnretrofit.sites import Plan
from bnretrofit.standardising import standardize
from bnretrofit.unit_outputs import UnitOutputs, check_unit_outputs
from bnretrofit.workflows.agreement import open_agreed
from bnretrofit.workflows.comparing import compare, failed
from bnretrofit.workflows.header import header_for
from bnretrofit.workflows.images import ImageChoice, batches_of, notes_on, record_of
from bnretrofit.workflows.opening import ModelChoice
from bnretrofit.workflows.planfile import PlanFile
from bnretrofit.workflows.planned import PlanChoice, decide

__all__ = ["RetrofitChoice", "Retrofitted", "retrofit_checkpoint"]

VERIFY_IMAGES = 64


@dataclass(frozen=True, slots=True)
class RetrofitChoice:
    """How a user wants a checkpoint retrofitted.

    Attributes:
        init: "identity": outputs do not change, and that is verified. "standardize": every norm puts out mean 0 and
            variance 1 over the images, and that is verified; for networks not yet trained.
        force: Write even if verification fails.
    """

    init: str = "identity"
    force: bool = False


DEFAULT = RetrofitChoice()


@dataclass(frozen=True, slots=True)
class Retrofitted:
    """What was done."""

    plan: Plan
    model: str
    preprocessing: Preprocessing
    calibration: dict[str, Any]
    report: Report | UnitOutputs
    output: Path
    notes: tuple[str, ...]

    @property
    def calibration_images(self) -> int:
        """How many images the statistics are of."""
        return int(self.calibration["images"])


def retrofit_checkpoint(
    path: Path | None,
    model: ModelChoice,
    images: ImageChoice,
    choice: PlanChoice | PlanFile,
    output: Path,
    how: RetrofitChoice = DEFAULT,
    *,
    overwrite: bool = False,
    device: str = "cpu",
) -> Retrofitted:
    """Insert BatchNorm into a checkpoint.

    Args:
        path: The checkpoint; None for the library's own weights.
        model: What the user said of the model.
        images: The calibration images.
        choice: Which layers get a norm, or a plan file that says it.
        output: The file to write.
        how: What the norms are to be at the start, and whether to write whatever verification finds.
        overwrite: Replace it if it exists.
        device: Where to run.

    Returns:
        The plan and what verification found.

    Raises:
        RetrofitError: The message says what; nothing was written.
    """
    read = (path, model.read_from, choice.path if isinstance(choice, PlanFile) else None)
    check_output(output, overwrite=overwrite, inputs=read)
    if images.folder is None:
        raise UsageError("no images to calibrate with", remedy="pass -d FOLDER")
    everything = images.found()
    opened = open_agreed(path, model, choice if isinstance(choice, PlanFile) else None)
    if opened.has_inserted_norms:
        raise UsageError(
            "the checkpoint is retrofitted already", where=str(path), remedy="fold it first, or use it as it is"
        )
    if opened.plan is not None:
        raise UsageError(
            "the checkpoint still has inserted norms, which fold left in their places",
            where=str(path),
            remedy="fold it with --allow-new-layers first",
        )
    check_space(output, opened.tensors_with(opened.model))
    preprocessing = images.preprocessing(opened.preprocessing)
    network = opened.model.to(checked_device(device))
    batches = batches_of(images, preprocessing, everything.sampled(images.num_images, images.seed))
    example = batches.first()[:1]
    preprocessing = preprocessing.seen(example)
    plan, like = decide(opened, choice, example, trust_code=model.trust_code)
    with splits_noted() as splits:
        result = _inserted(network, plan, batches, how.init)
    report: Report | UnitOutputs
    if how.init == "standardize":
        report = check_unit_outputs(result, [site.norm_name for site in plan.sites], batches)
    else:
        report = _verified(network, result, replace(images, num_images=VERIFY_IMAGES), batches, everything)
    report = replace(report, notes=(*report.notes, *splits))
    if not report.passed and not how.force:
        raise _failed(report)
    name = str(opened.name if like is None else like)
    calibration = record_of(batches, images.seed)
    if how.init != DEFAULT.init:
        calibration["init"] = how.init
    header = header_for(
        opened,
        stage="retrofitted",
        model=name,
        preprocessing=preprocessing,
        changes=opened.changes,
        plan=plan,
        calibration=calibration,
    )
    write(output, opened.tensors_with(result), header, overwrite=overwrite)
    return Retrofitted(
        plan, name, preprocessing, calibration, report, output, (*opened.notes, *notes_on(batches), *splits)
    )


def _inserted(network: nn.Module, plan: Plan, batches: ImageBatches, init: str) -> nn.Module:
    if init == "standardize":
        return standardize(network, plan, batches)
    return insert_sharing(network, plan, calibrate(network, plan, batches))


def _failed(report: Report | UnitOutputs) -> VerificationError:
    if isinstance(report, Report):
        return failed("the retrofitted model is not the original's equal", report)
    error = VerificationError(
        "the norms do not put out mean 0 and variance 1",
        why=report.reason,
        where=report.layer,
        remedy="exclude the layer, or calibrate with all images in one batch (-b)",
    )
    error.report = report.to_json()
    return error


def _verified(
    original: nn.Module, result: nn.Module, images: ImageChoice, used: ImageBatches, everything: ImageFiles
) -> Report:
    """Compare on images that were not calibrated with, where there are any left."""
    left = everything.without(used.files)
    chosen = (left if left.paths else everything).sampled(images.num_images, images.seed)
    return compare(original, result, batches_of(images, used.preprocessing, chosen)).report
