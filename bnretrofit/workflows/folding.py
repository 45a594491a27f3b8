"""What `bnretrofit fold` does: fold, verify, and only then write."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bnretrofit.checkpoints import check_output, write
from bnretrofit.errors import VerificationError
from bnretrofit.folding import fold_sharing, make_fold_plan
from bnretrofit.layers import Normed
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.sites import FoldPlan
from bnretrofit.verification import verify
from bnretrofit.workflows.comparing import Compared, compare
from bnretrofit.workflows.header import header_for
from bnretrofit.workflows.images import ImageChoice, batches_of
from bnretrofit.workflows.opening import ModelChoice, Opened, architecture, example_for, open_model

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
    network = opened.model.to(device)
    batches = None if images.folder is None else batches_of(images, preprocessing)
    example = example_for(preprocessing, network) if batches is None else next(iter(batches))[:1]
    target = None if like is None else architecture(ModelChoice(like, None, opened.num_classes, model.trust_code))
    plan = make_fold_plan(network, example)
    result = fold_sharing(network, example, like=None if target is None else target.model, force=force)
    compared = _random(network, result, example) if batches is None else compare(network, result, batches)
    if not compared.report.passed and not force:
        report = compared.report
        raise VerificationError("the folded model is not the same function", why=report.reason, where=report.layer)
    name = str(opened.name if target is None else target.name)
    changed = {"identities": [], "biases": []} if target is not None else _changes(opened, network, plan)
    _write(output, result, opened, name, preprocessing, changed, overwrite=overwrite)
    return Folded(plan, name, compared, output, opened.notes)


def _random(network: nn.Module, result: nn.Module, example: torch.Tensor) -> Compared:
    report = verify(network, result, [torch.randn(example.shape, generator=torch.Generator().manual_seed(0))])
    return Compared(report, None, ("no images were given (-d): verified by graph, tensors and random inputs",))


def _changes(opened: Opened, network: nn.Module, plan: FoldPlan) -> dict[str, list[str]]:
    """What the file must say for its architecture to be built again: norms that became nn.Identity, biases gained."""
    inserted = {f"{name}.norm".lstrip(".") for name, module in network.named_modules() if isinstance(module, Normed)}
    identities = [found.norm for found in plan.folds if found.norm not in inserted]
    biases = [
        found.layer.removesuffix(".layer") if found.norm in inserted else found.layer
        for found in plan.folds
        if found.new_bias
    ]
    return {
        "identities": [*opened.folded["identities"], *identities],
        "biases": [*opened.folded["biases"], *biases],
    }


def _write(
    output: Path,
    result: nn.Module,
    opened: Opened,
    name: str,
    preprocessing: Preprocessing,
    changed: dict[str, list[str]],
    *,
    overwrite: bool,
) -> None:
    header = header_for(opened, stage="folded", model=name, preprocessing=preprocessing, folded=changed)
    write(output, result.state_dict(), header, overwrite=overwrite)
