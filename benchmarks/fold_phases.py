"""A clock of phases: seconds by phase of one run, measured from outside, around functions of the library."""

import importlib
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["BESIDE", "FINISH", "READ", "WAIT", "WRITE", "Phase", "Phases"]

READ, FINISH = "read and check", "write: finish, sync, rename"
WAIT, WRITE = "write: wait for the digest", "write: tensors"
BESIDE = " (in a thread)"

# Where fold_checkpoint's time goes: functions by the module (or class) that holds their name, and their phase. A name
# that is no longer there is left out, and its time shows under its caller's phase or as "other".
PHASES = (
    ("workflows.folding", "open_model", "open: build, load"),
    ("workflows.folding", "architecture", "open: build, load"),
    ("workflows.opening", "read", READ),
    ("workflows.folding", "fold_captured", "fold"),
    ("workflows.folding", "verify_labelled", "verify: other"),
    ("verification", "compare_graphs", "verify: graphs and tensors"),
    ("verification", "prove", "verify: graphs and tensors"),
    ("verification", "_outputs", "verify: run"),
    ("folding", "capture", "capture"),
    ("workflows.folding", "header_for", WAIT),
    ("publishing", "save_file", WRITE),
    ("publishing:PendingOutput", "publish", FINISH),
)


class Phases:
    """Seconds by phase; what runs within another phase counts for itself alone.

    Args:
        clock: Gives seconds: by the clock on the wall, or of a thread.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}
        self.inner = threading.local()

    def of(self, phase: str) -> "Phase":
        return Phase(self, phase)

    def watch(self) -> None:
        """Measure the functions of PHASES wherever this process calls them."""
        for module_name, name, phase in PHASES:
            module, _, holder = module_name.partition(":")
            owner: Any = importlib.import_module(f"bnretrofit.{module}")
            owner = getattr(owner, holder, None) if holder else owner
            work = getattr(owner, name, None)
            if work is not None:
                setattr(owner, name, self.measured(work, phase))

    def measured(self, work: Callable[..., Any], phase: str) -> Callable[..., Any]:
        """A function that counts for a phase whenever it is called."""

        def measured(*args: Any, **kwargs: Any) -> Any:
            with self.of(phase):
                return work(*args, **kwargs)

        return measured


class Phase:
    """A stretch of time, as a context manager."""

    def __init__(self, phases: Phases, name: str) -> None:
        self.phases = phases
        self.name = name

    def __enter__(self) -> None:
        self.outer = getattr(self.phases.inner, "seconds", 0.0)
        self.phases.inner.seconds = 0.0
        self.start = self.phases.clock()

    def __exit__(self, *_: object) -> None:
        whole = self.phases.clock() - self.start
        own = whole - self.phases.inner.seconds
        aside = "" if threading.current_thread() is threading.main_thread() else BESIDE
        name = f"{self.name}{aside}"
        self.phases.seconds[name] = self.phases.seconds.get(name, 0.0) + own
        self.phases.inner.seconds = self.outer + whole
