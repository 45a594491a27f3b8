"""What a page says, before anything is drawn or written."""

from dataclasses import dataclass, field

from bnretrofit.comparison import Report
from bnretrofit.findings import BatchDrift
from bnretrofit.pages.diagram import Node
from bnretrofit.pages.layer_table import Row
from bnretrofit.training import History

__all__ = ["Facts", "Page", "Verified"]

Facts = tuple[tuple[str, str], ...]
"""What something is -> what it is said to be."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What verification answered.

    Attributes:
        what: Which two models were compared, as a sentence.
        short: The same in a few words.
        report: What was found.
        accuracy: Top-1 accuracy of both, 0 to 1; None where no folder says the classes.
    """

    what: str
    short: str
    report: Report
    accuracy: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        title: What it is of.
        lead: What that is, as a sentence.
        summary: The few facts that matter most.
        nodes: Of the network's picture.
        rows: Of the table of layers.
        statistics_from: Where the layers' figures are from; or why there are none.
        verified: None where nothing was compared.
        verified_note: Why nothing was.
        drift: By batch size.
        drift_note: What was measured, or why nothing was.
        history: Of a run; None for anything else.
        provenance: Groups of facts, each with its title.
        notes: What was assumed.
    """

    title: str
    lead: str
    summary: Facts
    nodes: tuple[Node, ...]
    rows: tuple[Row, ...]
    statistics_from: str = ""
    verified: Verified | None = None
    verified_note: str = ""
    drift: tuple[BatchDrift, ...] = ()
    drift_note: str = ""
    history: History | None = None
    provenance: tuple[tuple[str, Facts], ...] = ()
    notes: tuple[str, ...] = field(default=())
