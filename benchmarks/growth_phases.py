"""Where a verb's processor time goes: functions of the library and of torch, watched from outside, by phase."""

import importlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from benchmarks.fold_phases import Phases

__all__ = ["EXPORT", "FORWARD", "PHASES", "watched"]

EXPORT, FORWARD, STATISTICS, JOINING = "torch.export", "forward pass", "statistics", "joining statistics"
GRAPH, COPY, DECIDE, PLACE = "reading the graph", "copying modules", "deciding", "placing norms"
COMPARE, OTHERS, ROUNDING = "comparing graphs", "forward pass, other inputs", "rounding, in float64"
ABSORB, OPEN, READ, DIGEST, WRITE = "absorbing", "building the model", "reading and checking", "digest", "writing"

# A function by the module (or class) that holds its name, and its phase; what runs within another phase counts for
# itself alone. The test of growth fails where a name is no longer there.
PHASES = (
    ("torch.export", "export", EXPORT),
    ("bnretrofit.capture", "_graph_of", GRAPH),
    ("bnretrofit.capture", "share_copy", COPY),
    ("bnretrofit.surgery", "share_copy", COPY),
    ("bnretrofit.calibration", "share_copy", COPY),
    ("bnretrofit.folding", "share_copy", COPY),
    ("bnretrofit.folding", "independent_copy", COPY),
    ("bnretrofit.verification", "share_copy", COPY),
    ("bnretrofit.planning", "_decisions", DECIDE),
    ("bnretrofit.planning", "output_layers", DECIDE),
    ("bnretrofit.surgery", "runs_through", DECIDE),
    ("bnretrofit.surgery", "place_norms", PLACE),
    ("bnretrofit.calibration", "place_norms", PLACE),
    ("bnretrofit.calibration", "_forward", FORWARD),
    ("bnretrofit.moments:PassMoments", "stage", STATISTICS),
    ("bnretrofit.moments:PassMoments", "commit", JOINING),
    ("bnretrofit.moments:PassMoments", "stats", JOINING),
    ("bnretrofit.calibration", "measured_together", "exchange between ranks"),
    ("bnretrofit.folding", "find_folds", DECIDE),
    ("bnretrofit.folding", "_folded", ABSORB),
    ("bnretrofit.folding", "compare_graphs", COMPARE),
    ("bnretrofit.trials.graphs", "prove", COMPARE),
    ("bnretrofit.trials.graphs", "unprovable", COMPARE),
    ("bnretrofit.trials.graphs", "compare_graphs", COMPARE),
    ("bnretrofit.verification", "outputs_of", FORWARD),
    ("bnretrofit.trials.trying", "outputs_of", OTHERS),
    ("bnretrofit.trials.trying:Trials", "add", "comparing outputs"),
    ("bnretrofit.trials.floor:ReferenceFloor", "error_on", ROUNDING),
    ("bnretrofit.workflows.folding", "open_model", OPEN),
    ("bnretrofit.workflows.opening", "read", READ),
    ("bnretrofit.checkpoints.reading", "file_digest", DIGEST),
    ("bnretrofit.publishing", "serialise", WRITE),
)


@contextmanager
def watched() -> Iterator[Phases]:
    """While it lasts, seconds of processor time are counted by phase."""
    # A thread's own time: what waits, or runs in another thread, is not this phase's.
    phases = Phases(time.thread_time)
    with ExitStack() as stack:
        for holder, name, phase in PHASES:
            owner = owner_of(holder)
            work = getattr(owner, name)
            stack.enter_context(patch.object(owner, name, phases.measured(work, phase)))
        yield phases


def owner_of(holder: str) -> Any:
    """The module, or the class in it, that is named."""
    module, _, inner = holder.partition(":")
    found: Any = importlib.import_module(module)
    return getattr(found, inner) if inner else found
