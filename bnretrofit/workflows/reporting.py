"""What `bnretrofit report` does: look at a checkpoint or a run, verify it again, and write what was seen as a page."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from bnretrofit.batches import checked_device
from bnretrofit.calibration import calibrate
from bnretrofit.capture import capture
from bnretrofit.data import ImageBatches
from bnretrofit.layers import kind_of
from bnretrofit.norms import is_batch_norm, running_norms
from bnretrofit.pages.content import Page
from bnretrofit.pages.diagram import drawn
from bnretrofit.pages.layer_table import layer_table
from bnretrofit.pages.marks import Mark, marks_of_folds, marks_of_plan
from bnretrofit.pages.rendering import page_html
from bnretrofit.pages.statistics import LayerStatistics, statistics_of_norm, statistics_of_stats
from bnretrofit.planning import make_plan
from bnretrofit.publishing import publish_text
from bnretrofit.sites import Plan
from bnretrofit.trials.drift import DRIFT_SIZES, drift_by_batch_size
from bnretrofit.workflows.comparing import preprocessing_of
from bnretrofit.workflows.images import ImageChoice, batches_of, notes_on, record_of
from bnretrofit.workflows.opening import ModelChoice, Opened, example_for
from bnretrofit.workflows.page_words import drift_note, lead_of, statistics_note, summary_of
from bnretrofit.workflows.provenance import provenance_of
from bnretrofit.workflows.reported import subject_of
from bnretrofit.workflows.verifying_again import opened_pair, verified_again

__all__ = ["ReportChoice", "report_page", "write_page"]


@dataclass(frozen=True, slots=True)
class ReportChoice:
    """What a user wants on the page.

    Attributes:
        against: The checkpoint that it is held against; None for what the checkpoint itself folds to.
        device: Where to run.
    """

    against: Path | None = None
    device: str = "cpu"


def report_page(target: Path, model: ModelChoice, images: ImageChoice, choice: ReportChoice) -> Page:
    """Look at a checkpoint or a run.

    Args:
        target: A checkpoint, or the folder of a run.
        model: What the user said of the model.
        images: What it is run on; without a folder, those of the run if there are any still.
        choice: What is wanted besides.

    Returns:
        What the page says.

    Raises:
        RetrofitError: A file or an image cannot be read, or the model cannot be captured.
    """
    subject = subject_of(target)
    if images.folder is None and subject.images is not None:
        images = replace(images, folder=subject.images, max_bad_images=images.max_bad_images or subject.max_bad_images)
    opened, pair = opened_pair(subject, model, choice.against)
    preprocessing = (
        images.preprocessing(opened.preprocessing)
        if pair is None
        else preprocessing_of(pair.reference, pair.judged, images)
    )
    network = opened.model.to(checked_device(choice.device))
    batches = None if images.folder is None else batches_of(images, preprocessing)
    example = example_for(preprocessing, network) if batches is None else batches.first()[:1].to(choice.device)
    graph = capture(network, example)
    statistics = _statistics_of_norms(network)
    marks, left_out = _marks(opened, network)
    if opened.stage == "original" or (batches is not None and not statistics):
        # Of a network as it was trained: what would be done to it, and what is measured.
        plan = make_plan(network, example)
        if opened.stage == "original":
            marks, left_out = marks_of_plan(plan, inserted=False), plan.notes
        statistics = statistics or _measured(network, plan, batches)
    nodes = drawn(graph, marks)
    rows = layer_table(nodes, marks, statistics)
    verified, why_not = verified_again(opened, pair, graph, example, batches)
    drift = drift_by_batch_size(network, _first(batches)) if batches is not None else ()
    header = None if opened.checkpoint is None else opened.checkpoint.header
    used = {"images": None if batches is None else {"folder": images.folder, **record_of(batches, images.seed)}}
    return Page(
        title=target.name or str(target),
        lead=lead_of(opened, subject),
        summary=summary_of(network, rows, verified, subject.history, header),
        nodes=nodes,
        rows=rows,
        statistics_from=statistics_note(rows, images=batches is not None),
        verified=verified,
        verified_note=why_not,
        drift=drift,
        drift_note=drift_note(drift, has_norms=bool(running_norms(network)), images=batches is not None),
        history=subject.history,
        provenance=provenance_of(subject, opened, {**used, "device": choice.device}),
        notes=(
            *subject.notes,
            *opened.notes,
            *left_out,
            *(() if verified is None else verified.report.notes),
            *(() if batches is None else notes_on(batches)),
        ),
    )


def write_page(page: Page, output: Path, *, overwrite: bool) -> None:
    """Write a page as HTML, whole or not at all.

    Raises:
        RetrofitError: The file exists, or cannot be written.
    """
    publish_text(output, page_html(page), overwrite=overwrite)


def _marks(opened: Opened, network: nn.Module) -> tuple[dict[str, Mark], tuple[str, ...]]:
    """What is to be said of each layer, and what cannot be."""
    header = None if opened.checkpoint is None else opened.checkpoint.header
    marks = {} if opened.plan is None else marks_of_plan(opened.plan, inserted=True)
    if header is None:
        # The plan was made out from the keys, and its reasons are not those of whoever chose.
        unknown = "the file does not say why"
        known = {name: replace(mark, note=unknown) if mark.state == "skipped" else mark for name, mark in marks.items()}
        return known, ()
    if opened.stage != "folded":
        return marks, ()
    layers = {name for name, module in network.named_modules() if kind_of(module) is not None}
    folds, lost = marks_of_folds(header.get("folds"), layers)
    if not folds:
        return marks, ("the file does not say into which of its layers norms were folded",)
    left_out = f"{lost} norms were folded that followed none of the layers that are shown"
    return {**folds, **marks}, (left_out,) if lost else ()


def _statistics_of_norms(network: nn.Module) -> dict[str, LayerStatistics]:
    norms = {name: statistics_of_norm(module) for name, module in network.named_modules() if is_batch_norm(module)}
    return {name: found for name, found in norms.items() if found is not None}


def _measured(network: nn.Module, plan: Plan, batches: ImageBatches | None) -> dict[str, LayerStatistics]:
    """Of the layers that could get a norm, on the images."""
    measured = {} if batches is None else calibrate(network, plan, batches)
    return {name: statistics_of_stats(stats) for name, stats in measured.items()}


def _first(batches: ImageBatches) -> list[Tensor]:
    """As many batches as are needed to tell the drift."""
    found: list[Tensor] = []
    for batch in batches:
        found.append(batch)
        if sum(map(len, found)) >= max(DRIFT_SIZES):
            break
    return found
