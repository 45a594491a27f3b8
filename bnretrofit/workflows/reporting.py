"""What `bnretrofit report` does: look at a checkpoint or a run, verify it again, and write what was seen as a page."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from bnretrofit.batches import checked_device
from bnretrofit.calibration import calibrate
from bnretrofit.capture import Graph, capture
from bnretrofit.data import ImageBatches
from bnretrofit.errors import RetrofitError
from bnretrofit.folding import fold_captured
from bnretrofit.norms import running_norms
from bnretrofit.pages.content import Page, Verified
from bnretrofit.pages.diagram import drawn
from bnretrofit.pages.layer_table import layer_table
from bnretrofit.pages.marks import Mark, marks_of_folds, marks_of_plan
from bnretrofit.pages.rendering import page_html
from bnretrofit.pages.statistics import LayerStatistics, statistics_of_norm, statistics_of_stats
from bnretrofit.planning import make_plan
from bnretrofit.publishing import publish_text
from bnretrofit.trials.drift import DRIFT_SIZES, drift_by_batch_size
from bnretrofit.verification import Checks, verify_labelled
from bnretrofit.workflows.comparing import Compared, compare, open_both
from bnretrofit.workflows.images import ImageChoice, batches_of, notes_on, record_of
from bnretrofit.workflows.opening import ModelChoice, Opened, example_for, open_model
from bnretrofit.workflows.page_words import drift_note, lead_of, statistics_note, summary_of
from bnretrofit.workflows.provenance import provenance_of
from bnretrofit.workflows.reported import Subject, subject_of

__all__ = ["ReportChoice", "report_page", "write_page"]

CHECKS = Checks(floor=True, per_layer=True)
"""What a page's verification does besides comparing graphs and outputs."""


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
    if images.folder is None:
        images = replace(images, folder=subject.images)
    opened, reference = _opened(subject, model, choice.against)
    preprocessing = images.preprocessing(opened.preprocessing)
    network = opened.model.to(checked_device(choice.device))
    batches = None if images.folder is None else batches_of(images, preprocessing)
    example = example_for(preprocessing, network) if batches is None else batches.first()[:1].to(choice.device)
    graph = capture(network, example)
    marks, left_out = _marks(opened, network, example)
    nodes = drawn(graph, marks)
    statistics = _statistics(network, example, batches)
    rows = layer_table(nodes, marks, statistics)
    verified, why_not = _verified(subject, opened, reference, graph, example, batches)
    has_norms = bool(running_norms(network))
    drift = drift_by_batch_size(network, _first(batches)) if batches is not None and has_norms else ()
    used = {"images": None if batches is None else record_of(batches, images.seed), "device": choice.device}
    return Page(
        title=target.name or str(target),
        lead=lead_of(opened, subject),
        summary=summary_of(network, rows, verified, subject.history),
        nodes=nodes,
        rows=rows,
        statistics_from=statistics_note(rows, has_norms=has_norms, images=batches is not None),
        verified=verified,
        verified_note=why_not,
        drift=drift,
        drift_note=drift_note(drift, has_norms=has_norms, images=batches is not None),
        history=subject.history,
        provenance=provenance_of(subject, opened, used),
        notes=(*opened.notes, *left_out, *(() if batches is None else notes_on(batches))),
    )


def write_page(page: Page, output: Path, *, overwrite: bool) -> None:
    """Write a page as HTML, whole or not at all.

    Raises:
        RetrofitError: The file exists, or cannot be written.
    """
    publish_text(output, page_html(page), overwrite=overwrite)


def _opened(subject: Subject, model: ModelChoice, against: Path | None) -> tuple[Opened, Opened | None]:
    """The checkpoint, and the one that it is held against."""
    if against is not None:
        reference, opened = open_both(against, subject.checkpoint, (model, model))
        return opened, reference
    opened = open_model(subject.checkpoint, model)
    if subject.folded is None:
        return opened, None
    return opened, open_model(subject.folded, ModelChoice(trust_code=model.trust_code))


def _marks(opened: Opened, network: nn.Module, example: Tensor) -> tuple[dict[str, Mark], tuple[str, ...]]:
    """What is to be said of each layer, and what cannot be."""
    if opened.stage == "original":
        return marks_of_plan(make_plan(network, example), inserted=False), ()
    marks = {} if opened.plan is None else marks_of_plan(opened.plan, inserted=True)
    if opened.stage != "folded":
        return marks, ()
    header = None if opened.checkpoint is None else opened.checkpoint.header
    record = (header or {}).get("fold")
    folds = marks_of_folds(record.get("folds") or ()) if isinstance(record, Mapping) else {}
    known = dict(network.named_modules())
    placed = {name: mark for name, mark in folds.items() if name in known}
    lost = f"{len(folds) - len(placed)} norms were folded into layers that had other names then"
    if not folds:
        lost = "the file does not say which norms were folded"
    return {**placed, **marks}, () if len(placed) == len(folds) and folds else (lost,)


def _statistics(network: nn.Module, example: Tensor, batches: ImageBatches | None) -> dict[str, LayerStatistics]:
    """Of the norms or, in a network without any, of the layers on the images."""
    norms = running_norms(network)
    if norms:
        known = {name: statistics_of_norm(norm) for name, norm in norms.items()}
        return {name: found for name, found in known.items() if found is not None}
    if batches is None:
        return {}
    plan = make_plan(network, example)
    measured = calibrate(network, plan, batches)
    return {name: statistics_of_stats(stats) for name, stats in measured.items()}


def _verified(
    subject: Subject,
    opened: Opened,
    reference: Opened | None,
    graph: Graph,
    example: Tensor,
    batches: ImageBatches | None,
) -> tuple[Verified | None, str]:
    """What verification answers; or why there was nothing to verify."""
    network, name = opened.model, subject.checkpoint.name
    if reference is not None:
        other = "what it was compared with" if reference.checkpoint is None else reference.checkpoint.path.name
        pair = (network, reference.model) if subject.folded is not None else (reference.model, network)
        what = f"{name}, and {other}" if subject.folded is not None else f"{other}, and {name}"
        found = _compared(pair[0], pair[1].to(example.device), example, batches, None)
        return Verified(f"Compared: {what}.", found.report, found.accuracy), ""
    try:
        folded = fold_captured(network, example, like=None, force=True)
    except RetrofitError as error:
        return None, f"It was not compared with what it folds to: {error}."
    if not folded.plan.folds:
        return None, "It has no norm that folds away, and no other file was given to compare it with (--against FILE)."
    found = _compared(network, folded.model, example, batches, (graph, folded.after))
    what = f"Compared: {name}, and what it folds to: the same network without norms that fold away."
    return Verified(what, found.report, found.accuracy), ""


def _compared(
    a: nn.Module, b: nn.Module, example: Tensor, batches: ImageBatches | None, graphs: tuple[Graph, Graph] | None
) -> Compared:
    if batches is not None:
        return compare(a, b, batches, CHECKS, graphs=graphs)
    return Compared(verify_labelled(a, b, [], CHECKS, example=example, graphs=graphs), None)


def _first(batches: ImageBatches) -> list[Tensor]:
    """As many batches as are needed to tell the drift."""
    found: list[Tensor] = []
    for batch in batches:
        found.append(batch)
        if sum(map(len, found)) >= max(DRIFT_SIZES):
            break
    return found
