"""Several loggers as one."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from experiments.loggers.base import AbstractLogger, RunInfo
from experiments.results.files import Record


class CompositeLogger(AbstractLogger):
    """Tells every logger the same, in order.

    An error of one logger reaches the caller at once, except in `close`, which closes all of
    them first. Put the logger whose data matters most first.

    Arguments:

    - `loggers`: the loggers to forward to, in a sequence or by name; none logs nothing.
    """

    def __init__(self, loggers: Sequence[AbstractLogger] | Mapping[str, AbstractLogger]) -> None:
        self.loggers = tuple(loggers.values() if isinstance(loggers, Mapping) else loggers)

    def open(self, run: RunInfo) -> None:
        for logger in self.loggers:
            logger.open(run)

    def log(self, records: Sequence[Record]) -> None:
        for logger in self.loggers:
            logger.log(records)

    def status(self, **status: Any) -> None:
        for logger in self.loggers:
            logger.status(**status)

    def finish(self, summary: Mapping[str, Any]) -> None:
        for logger in self.loggers:
            logger.finish(summary)

    def interrupt(self) -> None:
        for logger in self.loggers:
            logger.interrupt()

    def close(self) -> None:
        """Closes all loggers, in order, even if some fail.

        Raises: the last error, with the earlier ones as its context.
        """
        with ExitStack() as stack:
            for logger in reversed(self.loggers):
                stack.callback(logger.close)
