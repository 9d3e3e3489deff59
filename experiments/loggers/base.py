"""What a logger is told: who the run is, its numbers, and how far it has come."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.results.files import Record


@dataclass(frozen=True)
class RunInfo:
    """Who the run is.

    Arguments:

    - `directory`: the run's output directory; created if it is missing.
    - `config`: the resolved configuration as plain dicts, lists and scalars.
    - `group`: what the run is compared with, such as a figure or a sweep.
    - `name`: the run's own name, without the seed.
    - `tags`: labels to filter runs by.
    - `seeds`: every seed that the run trains.
    - `job_type`: the kind of work, `"train"` unless said otherwise.
    - `metric`: the metric that matters most.
    """

    directory: Path
    config: Mapping[str, Any]
    group: str
    name: str
    tags: tuple[str, ...]
    seeds: tuple[int, ...]
    job_type: str = "train"
    metric: str = "accuracy"


class AbstractLogger(abc.ABC):
    """Somewhere for a run's numbers to go.

    The calls come in the order `open`, any number of `log` and `status`, `finish` if the run
    succeeded, and always `close`.
    """

    @abc.abstractmethod
    def open(self, run: RunInfo) -> None:
        """Starts a run, or continues the one that `run.directory` holds.

        Arguments:

        - `run`: who the run is.
        """

    @abc.abstractmethod
    def log(self, records: Sequence[Record]) -> None:
        """Takes numbers as they are measured.

        Arguments:

        - `records`: any number of records, of any steps, seeds and splits.
        """

    def status(
        self,
        *,
        step: int,
        total_steps: int,
        steps_per_second: float,
        loss: float | None = None,
        metric_name: str | None = None,
        metric_value: float | None = None,
    ) -> None:
        """Says how far the run has come; only a progress display cares, others ignore it.

        Arguments:

        - `step`, `total_steps`: optimiser steps taken, and to take in all.
        - `steps_per_second`: the recent speed.
        - `loss`: the latest training loss, averaged over seeds; `None` before the first step.
        - `metric_name`, `metric_value`: the latest value of the metric that matters, over seeds.
        """
        del step, total_steps, steps_per_second, loss, metric_name, metric_value

    @abc.abstractmethod
    def finish(self, summary: Mapping[str, Any]) -> None:
        """Takes the outcome of a run that succeeded; called once, before `close`.

        Arguments:

        - `summary`: plain nested data. `summary["seeds"]` maps each seed, as a string, to its
            final and best metrics; other keys, such as `"versions"`, describe the whole run.
        """

    def interrupt(self) -> None:  # noqa: B027
        """Is told, before `close`, that the run stops for now and another process goes on."""

    @abc.abstractmethod
    def close(self) -> None:
        """Releases everything. Safe to call twice, before `open`, and after an exception, when
        all that was logged so far stays readable.
        """
