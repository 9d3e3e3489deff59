"""The lock of a run's directory: one process at a time, on this machine or another."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from experiments.errors import InUse

LOCK = ".lock"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the directory; the kernel lets go of it when the process ends, however it ends.

    Raises:
        InUse: if another process holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    with open(path / LOCK, "a+", encoding="utf-8") as file:
        end = time.monotonic() + 1.0  # another process may just be looking
        while not _take(file, fcntl.LOCK_EX):
            if time.monotonic() < end:
                time.sleep(0.1)
                continue
            raise InUse(
                f"run directory {path}: in use by {_holder(file)}; expected a directory that no "
                "other process is running in"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def is_running(path: Path) -> bool:
    """Whether a process, on this or another machine, holds a run's directory."""
    if not (path / LOCK).exists():
        return False
    with open(path / LOCK, encoding="utf-8") as file:
        return not _take(file, fcntl.LOCK_SH)


def _take(file: TextIO, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read() or "another process"
