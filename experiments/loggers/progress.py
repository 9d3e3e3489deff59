"""A progress bar on a terminal, plain lines anywhere else."""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from experiments.loggers.base import AbstractLogger, RunInfo
from experiments.results.files import Record


class ProgressLogger(AbstractLogger):
    """Shows how the run goes on standard output.

    On a terminal one bar is kept up to date with the step, percentage, training loss, metric,
    speed and time left. In a pipe, a log file or CI the same is printed as a line, at the first
    step, at the last, and at most every `interval` seconds in between, with no control
    characters. Each evaluation prints one line either way, averaged over seeds.

    Arguments:

    - `interval`: least seconds between two plain lines.
    - `console`: where to print; standard output if `None`. A console that is a terminal gets the
        bar.
    - `clock`: seconds that never go back; tests replace it.
    """

    def __init__(
        self,
        interval: float = 10.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metric = "accuracy"
        self._interval = interval
        self._console = console
        self._clock = clock
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._printed_at = -math.inf

    def open(self, run: RunInfo) -> None:
        self._metric = run.metric
        console = self._console
        if console is None and sys.stdout.isatty():
            console = Console(file=sys.stdout)
        if console is not None and console.is_terminal and not console.is_dumb_terminal:
            self._bar = Progress(
                BarColumn(bar_width=None),
                TextColumn("{task.description}"),
                console=console,
                expand=True,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task("starting", total=None)
            self._bar.start()

    def log(self, records: Sequence[Record]) -> None:
        """Prints one line for each evaluated step; training records are left to `status`."""
        steps: dict[int, dict[str, list[float]]] = {}
        for record in records:
            if record.split != "train" and record.metric in ("loss", self._metric):
                values = steps.setdefault(record.step, {})
                values.setdefault(f"{record.split} {record.metric}", []).append(record.value)
        for step, metrics in steps.items():
            numbers = [f"{name} {_mean(values):.4g}" for name, values in metrics.items()]
            seeds = max(len(values) for values in metrics.values())
            over = [f"mean of {seeds} seeds"] if seeds > 1 else []
            self._print("  ".join([f"step {step}", *numbers, *over]))

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
        shown = [("loss", loss), (metric_name, metric_value)]
        parts = [
            f"{step}/{total_steps} ({100 * step // max(total_steps, 1)}%)",
            *(f"{name} {value:.4g}" for name, value in shown if name and value is not None),
            f"{steps_per_second:.3g} steps/s",
            f"{_time_left(total_steps - step, steps_per_second)} left",
        ]
        if self._bar is not None:
            self._bar.update(
                self._task, completed=step, total=total_steps, description="  ".join(parts)
            )
        elif step >= total_steps or self._clock() - self._printed_at >= self._interval:
            self._printed_at = self._clock()
            self._print("step " + "  ".join(parts))

    def finish(self, summary: Mapping[str, Any]) -> None:
        del summary

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            file = sys.stdout if self._console is None else self._console.file
            print(line, file=file, flush=True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _time_left(steps: int, steps_per_second: float) -> str:
    if not (math.isfinite(steps_per_second) and steps_per_second > 0):
        return "?"
    return str(timedelta(seconds=round(max(steps, 0) / steps_per_second)))
