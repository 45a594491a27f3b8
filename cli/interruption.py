"""An interruption: whatever asks a command to stop, it ends once, cleaned up, and without a traceback."""

import _thread
import atexit
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from importlib.machinery import ExtensionFileLoader
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from .console import SIGNALS, ignore_interruptions

__all__ = ["Interruption"]

TOGETHER = 0.2
"""Seconds within which signals are one interruption: a closing terminal or a service manager sends several at once, and
the second would break off the cleaning up after the first."""


class Interruption:
    """While it lasts, a polite kill and a closed terminal end like Ctrl-C: all is swept, and no traceback shown.

    Args:
        to_the_end: Whether it lasts until the process has ended, which with torch in it takes a while.

    Attributes:
        received: Whether a signal has come.
    """

    def __init__(self, *, to_the_end: bool) -> None:
        self.received = False
        self._to_the_end = to_the_end
        self._code: int | None = None
        self._last = -TOGETHER
        self._process = os.getpid()

    def __enter__(self) -> Self:
        # What is ignored stays so: nohup means it.
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self._handlers = {
            number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)
        }
        self._unraisable, self._uncaught = sys.unraisablehook, sys.excepthook
        self._listen()
        if self._to_the_end:
            # Registered before what the libraries register, so called after it; then Python gives up its handlers.
            atexit.register(ignore_interruptions)
        return self

    def __exit__(self, *_: object) -> None:
        if self._to_the_end:
            return
        sys.unraisablehook, sys.excepthook = self._unraisable, self._uncaught
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def too_late(self, code: int) -> None:
        """The command is over, and how it ends is settled: a signal from now on ends the process at once, with that."""
        self._code = code
        self._listen()

    def leave(self, code: int) -> NoReturn:
        """End the process here.

        Nothing after it could print a traceback or change the code: no library's farewell, and no waiting for a thread
        that writes what is no longer wanted.
        """
        if "multiprocessing" in sys.modules:
            from multiprocessing import active_children

            for child in active_children():
                child.terminate()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    def _listen(self) -> None:
        for number in self._handlers:
            signal.signal(number, self._arrived)
        sys.unraisablehook, sys.excepthook = self._in_finaliser, self._in_worker

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A worker that was forked: Ctrl-C reaches it too, but the process that it works for says when it ends.
            if number == signal.SIGTERM:
                os._exit(0)
            return
        now = time.monotonic()
        if now - self._last < TOGETHER:
            return
        self.received, self._last = True, now
        if self._code is not None:
            self.leave(self._code)
        if _loads_an_extension(frame):
            self._come_again(number)
            return
        raise KeyboardInterrupt

    def _in_finaliser(self, found: Any) -> None:
        if not self.received:
            self._unraisable(found)
        elif isinstance(found.exc_value, KeyboardInterrupt):
            # Nothing can be raised from where Python runs a finaliser, and its import system has many.
            self._come_again(signal.SIGINT)

    def _come_again(self, number: int) -> None:
        def again() -> None:
            main = threading.main_thread().ident
            if self._code is not None or main is None:
                return
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(main, number)
            else:
                # It does not end what the main thread waits for.
                _thread.interrupt_main(signal.Signals(number))

        threading.Timer(TOGETHER, again).start()

    def _in_worker(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        # A worker in the midst of handing over an image when the process that it works for goes.
        if os.getpid() == self._process or not isinstance(error, (OSError, EOFError)):
            self._uncaught(kind, error, traceback)


def _loads_an_extension(frame: FrameType | None) -> bool:
    """Whether C++ is setting up a module: some of it ends the process where Python's part of that raises."""
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False
