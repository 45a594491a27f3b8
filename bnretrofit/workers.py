"""What a process that decodes images does first."""

import multiprocessing
import os
import signal
import threading

__all__ = ["begin_worker"]


def begin_worker(_worker: int) -> None:
    """Let a worker pass over Ctrl-C, and end with the process that it works for, however that ends.

    torch's own watch over that process begins later: a worker whose process was killed before would wait for ever.

    Args:
        _worker: Its number, which a DataLoader gives.
    """
    # Ctrl-C reaches workers too, but the process that they work for says when they end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
