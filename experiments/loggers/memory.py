"""A logger that keeps everything in lists, for tests and notebooks."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.loggers.base import AbstractLogger, RunInfo
from experiments.results.files import Record


class MemoryLogger(AbstractLogger):
    """Keeps what it is told, in public attributes.

    `run` and `summary` are `None` until given; `records` is a flat list; `statuses` holds the
    keyword arguments of each `status` call; `closed` tells whether `close` was called.
    """

    def __init__(self) -> None:
        self.run: RunInfo | None = None
        self.records: list[Record] = []
        self.statuses: list[dict[str, Any]] = []
        self.summary: dict[str, Any] | None = None
        self.closed = False

    def open(self, run: RunInfo) -> None:
        self.run = run
        self.closed = False

    def log(self, records: Sequence[Record]) -> None:
        self.records.extend(records)

    def status(self, **status: Any) -> None:
        self.statuses.append(status)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.summary = dict(summary)

    def close(self) -> None:
        self.closed = True
