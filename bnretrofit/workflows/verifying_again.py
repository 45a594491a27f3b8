"""What a page is of, held against what is to be its equal: another file, what a run was folded to, or its own fold."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from bnretrofit.capture import Graph
from bnretrofit.data import ImageBatches
from bnretrofit.errors import RetrofitError
from bnretrofit.folding import fold_captured
from bnretrofit.pages.content import Verified
from bnretrofit.verification import Checks, verify_labelled
from bnretrofit.workflows.comparing import Compared, compare, open_both, with_the_rest
from bnretrofit.workflows.opening import ModelChoice, Opened, open_model
from bnretrofit.workflows.reported import Subject

__all__ = ["Pair", "opened_pair", "verified_again"]

CHECKS = Checks(floor=True, per_layer=True)
"""What a page's verification does besides comparing graphs and outputs."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two files that are to be the same function.

    Attributes:
        reference: The one that the other is judged by.
        judged: The other.
        what: Both, for a reader.
        short: The same in a few words.
    """

    reference: Opened
    judged: Opened
    what: str
    short: str


def opened_pair(subject: Subject, model: ModelChoice, against: Path | None) -> tuple[Opened, Pair | None]:
    """The checkpoint that is shown, and the pair that it is one of.

    Args:
        subject: What the page is of.
        model: What the user said of the model.
        against: A file that it is held against; None for what a run has folded it to, where this is one.

    Returns:
        The checkpoint; and None where there is no second file.

    Raises:
        RetrofitError: A file cannot be read, or nothing says which model it is.
    """
    shown = subject.checkpoint
    if against is not None:
        reference, opened = open_both(against, shown, (model, model))
        return opened, Pair(reference, opened, f"Compared: {against.name}, and {shown.name}.", f"beside {against.name}")
    opened = open_model(shown, model)
    if subject.folded is None:
        return opened, None
    # Opened as the user said, too: the file itself must not name the code that is run.
    folded = open_model(subject.folded, model)
    return opened, Pair(
        opened, folded, f"Compared: {shown.name}, and {subject.folded.name}.", f"{subject.folded.name} beside it"
    )


def verified_again(
    opened: Opened, pair: Pair | None, graph: Graph, example: Tensor, batches: ImageBatches | None
) -> tuple[Verified | None, str]:
    """What verification answers; or why there was nothing to verify.

    Args:
        opened: The checkpoint that is shown, on the device on which it is to run.
        pair: What is compared; None to compare the checkpoint with what it folds to.
        graph: Of the checkpoint.
        example: An input of it.
        batches: The images; None for random and extreme inputs alone.
    """
    if pair is not None:
        models = pair.reference.model.to(example.device), pair.judged.model.to(example.device)
        found = _compared(models, example, batches, None)
        report = with_the_rest(found.report, pair.reference, pair.judged)
        return Verified(pair.what, pair.short, report, found.accuracy), ""
    network = opened.model
    try:
        folded = fold_captured(network, example, like=None, force=True)
    except RetrofitError as error:
        return None, f"It was not compared with what it folds to: {error}."
    if not folded.plan.folds:
        return None, "It has no norm that folds away, and no other file was given to compare it with (--against FILE)."
    found = _compared((network, folded.model), example, batches, (graph, folded.after))
    what = (
        "Compared: the file, and what it folds to. The network that it was made from is not looked at (--against FILE)."
    )
    return Verified(what, "beside what it folds to", found.report, found.accuracy), ""


def _compared(
    models: tuple[nn.Module, nn.Module],
    example: Tensor,
    batches: ImageBatches | None,
    graphs: tuple[Graph, Graph] | None,
) -> Compared:
    if batches is not None:
        return compare(*models, batches, CHECKS, graphs=graphs)
    return Compared(verify_labelled(*models, [], CHECKS, example=example, graphs=graphs), None)
