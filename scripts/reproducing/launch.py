"""Runs the jobs of chains, each in a process of its own, some chains at a time."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.errors import Interrupted
from experiments.records import Group, merge, read_runs
from reproducing.jobs import AbstractChain, Job

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class JobError(RuntimeError):
    """A run that ended without a result."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Launcher:
    """Runs what is missing, and hands signals on to the runs.

    Arguments:
        folder: the runs of a figure go to folders of this one named after it.
        experiments: where theirs are in `configs/experiment`.
        overrides: of every run, after those of its job.
        show: whether the runs' own lines are shown, or only those of one that fails.
        seconds: of all runs so far.
    """

    folder: Path
    experiments: str
    overrides: Sequence[str]
    show: bool
    seconds: float = 0.0
    _running: list[subprocess.Popen[str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _signal: int | None = None

    def run(self, chains: Sequence[AbstractChain], at_a_time: int) -> None:
        """Goes through the chains to their ends; if one fails, those that run come to theirs.

        Raises:
            JobError: of the first chain that failed.
            Interrupted: if a signal came.
        """
        with self._handing_on(), ThreadPoolExecutor(at_a_time) as pool:
            results = [pool.submit(self._go_through, chain) for chain in chains]
            errors = [error for r in results if (error := r.exception()) is not None]
        if self._signal is not None:
            raise Interrupted(self._signal)
        for error in errors:
            raise error

    def next(self, chain: AbstractChain) -> tuple[Job | None, Path | None]:
        """A chain's next job, and the directory where it was begun and not finished, if there is
        one: then with the seeds that it was begun with."""
        folder = self.folder / chain.figure
        found = read_runs([folder]) if folder.is_dir() and any(folder.iterdir()) else []
        found = [run for run in found if run.cell.model == chain.model]
        ended = [run for run in found if all(s.state != "unfinished" for s in run.seeds)]
        job = chain.next(merge(ended))
        if job is None:
            return None, None
        for run in found:
            seeds = tuple(s.seed for s in run.seeds)
            if run not in ended and job.is_of(Group(run.cell, (run,))) and {*seeds} & {*job.seeds}:
                return replace(job, seeds=seeds), Path(run.source)
        return job, None

    def command(self, figure: str, job: Job, directory: Path) -> list[str]:
        """The command line of a job."""
        experiment = "figure1" if figure == "width" else figure
        return [
            sys.executable,
            "experiments/run.py",
            f"+experiment={self.experiments}{experiment}/{job.model}",
            *job.overrides(figure),
            *self.overrides,
            f"hydra.run.dir='{directory}'",
        ]

    def _go_through(self, chain: AbstractChain) -> None:
        before = None
        while self._signal is None:
            job, begun = self.next(chain)
            if job is None:
                return
            if job == before:
                raise JobError(f"{job.name}: run, and still missing; is --seeds right?", 1)
            self._run(chain.figure, job, begun or self.folder / chain.figure / job.name, begun)
            before = job

    def _run(self, figure: str, job: Job, directory: Path, begun: Path | None) -> None:
        title = f"{figure}/{job.name}"
        _say(f"{title}: {'resumed' if begun else 'begins'}")
        start, output = time.monotonic(), None if self.show else subprocess.PIPE
        with self._lock:
            if self._signal is not None:
                return
            # In a session of its own: Ctrl-C does not reach it but through `hand_on`.
            process = subprocess.Popen(
                self.command(figure, job, directory),
                cwd=ROOT,
                stdout=output,
                stderr=None if self.show else subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            self._running.append(process)
        text, _ = process.communicate()
        with self._lock:
            self._running.remove(process)
            self.seconds += time.monotonic() - start
        if process.returncode == Interrupted.exit_code or self._signal is not None:
            return
        if not (directory / "summary.json").exists():
            lines = "" if text is None else f"\n{text.rstrip()}"
            raise JobError(f"{title}: exit code {process.returncode}{lines}", process.returncode)
        _say(f"{title}: {_outcome(directory)}, {time.monotonic() - start:.0f} s")

    @contextmanager
    def _handing_on(self) -> Iterator[None]:
        """Has the runs write a checkpoint and end, if a signal comes."""

        def hand_on(signum: int, _: Any) -> None:
            self._signal = signum
            for process in list(self._running):
                process.terminate()

        before = {signum: signal.signal(signum, hand_on) for signum in SIGNALS}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def _say(line: str) -> None:
    """Prints a line at once, whatever other threads print."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _outcome(directory: Path) -> str:
    """What a run that has ended came to, in a few words."""
    (run,) = read_runs([directory])
    if run.threshold is None:
        values = [s.final for s in run.seeds if s.final is not None]
        return f"{run.metric} {min(values):.4g} – {max(values):.4g}" if values else "failed"
    passed = [s for s in run.seeds if s.steps_to_threshold is not None]
    return f"{len(passed)} of {len(run.seeds)} seeds pass {run.threshold:g}"
