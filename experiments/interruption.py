"""Signals that ask a run to stop: noted when they come, acted upon between two dispatches.

Slurm and submitit send SIGTERM, SIGUSR1 or SIGUSR2 before they preempt a job or end it; Ctrl-C is
SIGINT. Python runs
a handler only between two of its own instructions, and compiling a program can last a minute. So a
thread watches too: if the run has not begun to stop after some seconds, the process ends there,
with nothing lost but what came after the last checkpoint.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from experiments.errors import Interrupted, exit_code_of

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
PATIENCE = 8.0
"""Seconds a run has to begin to stop."""


class Interruption:
    """Whether the process has been asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.noticed = threading.Event()
        self._previous: dict[int, Any] = {}

    def check(self) -> None:
        """Raises `Interrupted` if the process has been asked to stop."""
        if self.signum is not None:
            self.settle()
            raise Interrupted(self.signum)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Takes the signals over; gives them back at the end. Only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        read, write = os.pipe()
        os.set_blocking(write, False)
        # Ctrl-C stays ignored where it was, as in a background job of a shell.
        heard = [s for s in SIGNALS if s != signal.SIGINT or signal.getsignal(s) != signal.SIG_IGN]
        self._previous = {s: signal.signal(s, self._note) for s in heard}
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read,), daemon=True).start()
        try:
            yield
        finally:
            self.settle()
            signal.set_wakeup_fd(before)
            os.close(write)  # the thread reads the end of the pipe, and ends
            for signum, handler in self._previous.items():
                signal.signal(signum, handler)

    def settle(self) -> None:
        """Tells the thread that the run stops, or has ended: a signal need not end it any more."""
        self.noticed.set()

    def hand_over(self) -> None:
        """Calls the handler that stood before, submitit's for example, which may not return."""
        handler = self._previous.get(self.signum or 0)
        if callable(handler) and self.signum != signal.SIGINT:  # Python's own would raise again
            handler(self.signum, None)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        """Keeps the first signal; but SIGTERM may come beside the one that submitit waits for."""
        if signum == self.signum == signal.SIGINT:
            raise KeyboardInterrupt  # at once, then
        if self.signum in (None, signal.SIGTERM):
            self.signum = signum
            if signum == signal.SIGINT:
                print(
                    "\nCtrl-C: stops after a checkpoint; again, and it stops at once.", flush=True
                )

    def _watch(self, read: int) -> None:
        """Ends the process if a signal came that the run does not act upon in time."""
        while received := os.read(read, 1):
            if received[0] not in self._previous:
                continue
            if callable(self._previous[received[0]]) and received[0] != signal.SIGINT:
                continue
            if not self.noticed.wait(PATIENCE):
                name = signal.Signals(received[0]).name
                print(
                    f"{name}: ended before it could stop, at the last checkpoint", file=sys.stderr
                )
                sys.stderr.flush()
                os._exit(exit_code_of(received[0]))
        os.close(read)
