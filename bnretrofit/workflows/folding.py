"""What `bnretrofit fold` does: fold, verify, and only then write."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bnretrofit.batches import checked_device
from bnretrofit.data import ImageBatches
from bnretrofit.errors import VerificationError
from bnretrofit.folding import FoldedModel, fold_captured
from bnretrofit.publishing import PendingOutput, check_output
from bnretrofit.sites import FoldPlan
from bnretrofit.standing import Normed
from bnretrofit.verification import verify_labelled
from bnretrofit.workflows.comparing import Compared, compare
from bnretrofit.workflows.header import header_for
from bnretrofit.workflows.images import ImageChoice, batches_of, notes_on
from bnretrofit.workflows.opening import ModelChoice, Opened, architecture, example_for, open_model
from bnretrofit.workflows.written import Changes

__all__ = ["Folded", "fold_checkpoint"]


@dataclass(frozen=True, slots=True)
class Folded:
    """What was done."""

    plan: FoldPlan
    model: str
    compared: Compared
    output: Path
    notes: tuple[str, ...]


def fold_checkpoint(
    path: Path,
    model: ModelChoice,
    images: ImageChoice,
    output: Path,
    *,
    like: str | None = None,
    overwrite: bool = False,
    force: bool = False,
    device: str = "cpu",
) -> Folded:
    """Fold every norm of a checkpoint that can be folded.

    Args:
        path: The checkpoint: one of ours, or any network with norms of its own.
        model: What the user said of the model.
        images: What the result is verified on; without a folder, random inputs.
        output: The file to write.
        like: Name of the architecture the result is to have.
        overwrite: Replace the output if it exists.
        force: Fold scales beyond the limit too, and write even if verification fails.
        device: Where to run.

    Returns:
        What was folded, what stayed, and what verification found.

    Raises:
        RetrofitError: The message says what; nothing was written.
    """
    check_output(output, overwrite=overwrite)
    opened = open_model(path, model)
    preprocessing = images.preprocessing(opened.preprocessing)
    network = opened.model.to(checked_device(device))
    batches = None if images.folder is None else batches_of(images, preprocessing)
    example = example_for(preprocessing, network) if batches is None else batches.first()[:1]
    target = None if like is None else architecture(ModelChoice(like, None, opened.num_classes, model.trust_code))
    folded = fold_captured(network, example, like=None if target is None else target.model, force=force)
    name = str(opened.name if target is None else target.name)
    changes = Changes() if target is not None else _changes(opened, network, folded.plan)

    def header() -> dict[str, Any]:
        return header_for(opened, stage="folded", model=name, preprocessing=preprocessing, changes=changes)

    with PendingOutput(output, folded.model.state_dict(), header, overwrite=overwrite) as pending:
        compared = _compared(network, folded, example, batches)
        report = compared.report
        if not report.passed and not force:
            raise VerificationError("the folded model is not the same function", why=report.reason, where=report.layer)
        pending.publish()
    notes = opened.notes if batches is None else (*opened.notes, *notes_on(batches))
    return Folded(folded.plan, name, compared, output, notes)


def _compared(network: nn.Module, folded: FoldedModel, example: Tensor, batches: ImageBatches | None) -> Compared:
    graphs = folded.before, folded.after
    if batches is not None:
        return compare(network, folded.model, batches, graphs=graphs)
    report = verify_labelled(network, folded.model, [], graphs=graphs, example=example)
    return Compared(report, None, ("no images were given (-d): verified by graph, tensors and random inputs",))


def _changes(opened: Opened, network: nn.Module, plan: FoldPlan) -> Changes:
    """What the file must say for its architecture to be built again: norms that became nn.Identity, biases gained."""
    inserted = {f"{name}.norm".lstrip(".") for name, module in network.named_modules() if isinstance(module, Normed)}
    identities = [found.norm for found in plan.folds if found.norm not in inserted]
    biases = [
        found.layer.removesuffix(".layer") if found.norm in inserted else found.layer
        for found in plan.folds
        if found.new_bias
    ]
    return Changes((*opened.changes.identities, *identities), (*opened.changes.biases, *biases))
