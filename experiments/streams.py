"""Standard output and error that cannot end a run: what they cannot take is dropped.

A terminal that is closed, a pipe whose reader has gone, a full disk or an encoding without "…" is
no fault of the run, whose results are in its directory.
"""

import os
import sys
from typing import Any, TextIO


def make_steady() -> None:
    """Makes `sys.stdout` and `sys.stderr` such streams, and gives closed descriptors a place to go.

    A file that a run opens would otherwise get the number of a closed descriptor, and what
    libraries print there would end up in it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which this one is
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif not isinstance(stream, _Steady):
            setattr(sys, name, _Steady(stream))


class _Steady:
    """A text stream whose writes never fail; after the first failure it writes to nowhere."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # of a stream that is closed, ValueError
            self._give_up()
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """Sends the rest, what is buffered included, to nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, self._stream.fileno())
        except (OSError, ValueError):
            self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        finally:
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
