"""The sentences of a page that depend on what was found."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from bnretrofit.findings import BatchDrift
from bnretrofit.pages.content import Facts, Verified
from bnretrofit.pages.layer_table import STATES, Row
from bnretrofit.training import History
from bnretrofit.workflows.opening import Opened
from bnretrofit.workflows.reported import Subject

__all__ = ["drift_note", "lead_of", "statistics_note", "summary_of"]

STAGES = {
    "original": "a network as it was trained; nothing has been inserted",
    "retrofitted": "a network into which norms were inserted",
    "finetuned": "a network that was trained on",
    "folded": "a network whose norms were folded into its weights",
}


def lead_of(opened: Opened, subject: Subject) -> str:
    """What the page is of."""
    part = f", of which the part '{opened.submodule}' is shown" if opened.submodule else ""
    shown = f"A run; shown is {subject.checkpoint.name}, " if subject.run is not None else ""
    norms = ", with inserted norms" if opened.stage == "finetuned" and opened.has_inserted_norms else ""
    sentence = f"{shown}{STAGES[opened.stage]}{norms}{part}: {opened.name}."
    return sentence[0].upper() + sentence[1:]


def summary_of(
    network: nn.Module,
    rows: Sequence[Row],
    verified: Verified | None,
    history: History | None = None,
    header: Mapping[str, Any] | None = None,
) -> Facts:
    """The few facts that matter most.

    Args:
        network: What is shown.
        rows: Its layers.
        verified: What it was held against.
        history: Of the run that the file is of.
        header: What the file says of itself.
    """
    counts = Counter(row.state for row in rows)
    facts = [(STATES[state], _layers(count)) for state, count in counts.items() if state not in ("", "norm")]
    facts.append(("parameters", f"{sum(parameter.numel() for parameter in network.parameters()):,}"))
    if verified is not None:
        report = verified.report
        level = "proved equal" if report.proved else "within tolerance" if report.passed else "not equal"
        facts.append((verified.short, level if report.passed else f"failed: {level}"))
    scales = [row.statistics.scale.largest for row in rows if row.statistics and row.statistics.scale]
    if scales:
        largest = math.nan if any(map(math.isnan, scales)) else max(scales)
        facts.append(("largest scale of a norm", f"{largest:.4g}"))
    return (*facts, *(() if history is None else _accuracy(history, header or {})))


def _accuracy(history: History, header: Mapping[str, Any]) -> Facts:
    """How accurate a run was before training, and is with the weights that are shown."""
    best = history.best
    number, top1 = (None, None) if best is None else (best.epoch, best.val_top1)
    training = header.get("training") or {}
    if training.get("statistics") == "measured":
        # The history's was chosen by statistics that lag behind: in the end the last epoch may have been better.
        number, top1 = training.get("epoch"), training.get("val_top1")
    if top1 is None:
        return ()
    before = history.epochs[0].val_top1
    begun = "" if before is None else f"{100 * before:.2f} % → "
    return ((f"top-1, epoch {number} of {history.epochs[-1].epoch}", f"{begun}{100 * top1:.2f} %"),)


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def statistics_note(rows: Sequence[Row], *, images: bool) -> str:
    """Where the figures of mean, variance and scale are from."""
    known = [row.statistics for row in rows if row.statistics is not None]
    if any(each.scale is not None for each in known):
        return "Means and variances are the norms’ running statistics; a scale is |weight| / √(variance + eps)."
    if known:
        return (
            "Means and variances were measured on the images, of layers that could get a norm; no BatchNorm keeps any."
        )
    asked = "" if images else ": with images (-d) they are measured"
    return f"No BatchNorm keeps means and variances{asked}."


def drift_note(drift: Sequence[BatchDrift], *, has_norms: bool, images: bool) -> str:
    """What the drift is of, or why there is none."""
    if not has_norms:
        return "Not measured: no BatchNorm, of those that are known here, uses batch statistics in training."
    if not images:
        return "Not measured: it takes images (-d)."
    if not drift:
        return "Not measured: it takes two images at least."
    sizes = "; ".join(f"{each.relative_rms:.3g} at batch {each.batch_size}" for each in drift)
    why = "Root mean square of what batch statistics move the outputs by, relative to that of the outputs"
    return f"{why}, on {max(each.samples for each in drift)} images: {sizes}. Frozen statistics have none."
