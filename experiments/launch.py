"""Runs the jobs of chains, each in a process of its own, some chains at a time."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.analysis.plan import AbstractChain, Job
from experiments.analysis.settings import check_settings
from experiments.errors import Interrupted, exit_code_of
from experiments.lock import is_running
from experiments.prescribed import prescribed
from experiments.results.files import SUMMARY
from experiments.results.records import RunResult, SeedResult, merge, read_run, runs_below

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class JobError(RuntimeError):
    """A chain cannot go on: a run ended without a result, or what is there is in the way."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Launcher:
    """Runs what is missing, and has the runs write a checkpoint and end if a signal comes.

    Arguments:
        folder: the runs of a figure go to folders of this one, named after it.
        small: whether the experiments are those of the small study.
        overrides: of every run, after those of its job.
        show: whether the runs' own lines are shown, or only those of one that fails.
        seconds: of all runs so far.
    """

    folder: Path
    small: bool
    overrides: Sequence[str]
    show: bool
    seconds: float = 0.0
    _running: list[subprocess.Popen[str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _signal: int | None = None

    def run(self, chains: Sequence[AbstractChain], at_a_time: int) -> list[JobError]:
        """Goes through the chains to their ends; where one fails it says so, and the others go on.

        Returns:
            Why chains failed.

        Raises:
            Interrupted: if a signal came.
        """
        with self._stopping(), ThreadPoolExecutor(at_a_time) as pool:
            errors = list(pool.map(self._go_through, chains))
        if self._signal is not None:
            raise Interrupted(self._signal)
        return [error for error in errors if error is not None]

    def next(self, chain: AbstractChain) -> tuple[Job, Path] | None:
        """A chain's next job and its directory; None when all is done.

        A job that was begun keeps its directory and the seeds that it was begun with, and so does
        one that ended, undecided, with fewer steps than a run has now.

        Raises:
            JobError: if a run that is there is in the way; it names the run.
            ValueError, OSError: for damaged files.
        """
        runs = self._runs(chain)
        begun = [run for run in runs if any(s.state == "unfinished" for s in run.seeds)]
        ended = [self._reopened(chain, run) for run in runs if run not in begun]
        short = [run for run in ended if run not in runs]
        job = chain.next(merge(ended))
        if job is None:
            return None
        directory, goes_on = self.folder / chain.figure / job.name, False
        for run in [*begun, *short]:
            seeds = tuple(seed.seed for seed in run.seeds)
            if job.is_of(run.cell) and set(seeds) & set(job.seeds):
                self._check_begun(run, [other for other in ended if other is not run])
                job, directory, goes_on = replace(job, seeds=seeds), Path(run.source), True
                break
        if is_running(directory):
            raise JobError(f"{directory}: another process is running it; wait for that")
        if (directory / SUMMARY).exists() and not goes_on:
            raise JobError(
                f"{directory}: this finished run does not tell what became of {job.name}; expected "
                "another run there, or other overrides after --"
            )
        return job, directory

    def _runs(self, chain: AbstractChain) -> list[RunResult]:
        """The runs of a chain's model, in the figure's folder."""
        folder = self.folder / chain.figure
        preset = "small" if self.small else self._experiment(chain.figure)
        found = [read_run(path) for path in (runs_below(folder) if folder.is_dir() else ())]
        ours = [run for run in found if run.cell.model == chain.model]
        try:
            for run in found:
                if run.preset != preset:
                    raise ValueError(
                        f"{run.source}: preset: got {run.preset!r}; expected {preset!r}"
                    )
            for run in ours:
                check_settings(run, self._prescribed(chain, run))
        except ValueError as error:
            raise JobError(
                f"{error}; are --scale, --results and what follows -- right?", 2
            ) from error
        return ours

    def _prescribed(self, chain: AbstractChain, run: RunResult) -> Mapping[str, Any]:
        """The settings that a run of the same cell would have now."""
        return prescribed(chain.figure, run.cell, small=self.small, overrides=self.overrides)

    def _reopened(self, chain: AbstractChain, run: RunResult) -> RunResult:
        """A run that ended; what it left undecided is unfinished if a run has more steps now."""

        def again(seed: SeedResult) -> SeedResult:
            undecided = seed.state == "finished" and seed.steps_to_threshold is None
            return replace(seed, state="unfinished") if undecided else seed

        steps, trained = "train.steps", run.settings["procedure"] == "train"
        if not trained or self._prescribed(chain, run)[steps] <= run.settings[steps]:
            return run
        return replace(run, seeds=tuple(map(again, run.seeds)))

    @staticmethod
    def _check_begun(run: RunResult, ended: Sequence[RunResult]) -> None:
        for other in ended:
            both = {s.seed for s in run.seeds} & {s.seed for s in other.seeds}
            if other.cell == run.cell and both:
                raise JobError(
                    f"{run.source}: seed {min(both)} is finished in {other.source}; expected a "
                    "seed once: remove this unfinished run"
                )

    @staticmethod
    def _experiment(figure: str) -> str:
        """The folder of a figure's experiments."""
        return "figure1" if figure == "width" else figure

    def command(self, figure: str, job: Job, directory: Path) -> list[str]:
        """The command line of a job."""
        experiment = f"{'small/' if self.small else ''}{self._experiment(figure)}/{job.model}"
        quoted = str(directory).replace("\\", "\\\\").replace("'", "\\'")
        return [
            sys.executable,
            "experiments/run.py",
            f"+experiment={experiment}",
            *job.overrides(figure),
            *self.overrides,
            f"hydra.run.dir='{quoted}'",
        ]

    def _go_through(self, chain: AbstractChain) -> JobError | None:
        """Runs a chain's jobs; returns why it could not go on, having said so."""
        try:
            while self._signal is None and (found := self.next(chain)) is not None:
                self._run(chain.figure, *found)
        except (JobError, ValueError, OSError) as error:
            _say(f"error: {error}", sys.stderr)
            return error if isinstance(error, JobError) else JobError(str(error), 2)
        return None

    def _run(self, figure: str, job: Job, directory: Path) -> None:
        title, start = f"{figure}/{job.name}", time.monotonic()
        goes_on = (directory / "metrics.jsonl").exists()
        _say(f"{title}: {'goes on' if goes_on else 'begins'}")
        process = self._start(self.command(figure, job, directory))
        output, _ = process.communicate()
        with self._lock:
            self._running.remove(process)
            self.seconds += time.monotonic() - start
        if self._signal is not None:
            return
        code = process.returncode
        # A seed that failed makes the code 1, and is a result.
        if code not in (0, 1) or not (directory / SUMMARY).exists():
            shown = f"\n{output.rstrip()}" if output else ""
            raise JobError(f"{title}: {_ending(code)}{shown}", code if code in (2, 75) else 1)
        _say(f"{title}: {_outcome(read_run(directory))}, {time.monotonic() - start:.0f} s")

    def _start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        with self._lock:
            # In a session of its own: Ctrl-C does not reach it but through `_stopping`.
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=None if self.show else subprocess.PIPE,
                stderr=None if self.show else subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            self._running.append(process)
        if self._signal is not None:  # it may have come before the process was in the list
            process.terminate()
        return process

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Notes signals, and has the runs write a checkpoint and end."""

        def stop(signum: int, _: Any) -> None:
            self._signal = signum
            for process in list(self._running):
                process.terminate()

        # One that is ignored, such as SIGHUP under nohup, stays ignored.
        heard = [signum for signum in SIGNALS if signal.getsignal(signum) != signal.SIG_IGN]
        before = {signum: signal.signal(signum, stop) for signum in heard}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def _say(line: str, file: Any = None) -> None:
    """Writes a line at once, whatever other threads write."""
    (file or sys.stdout).write(line + "\n")
    (file or sys.stdout).flush()


def _ending(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code in (exit_code_of(signal.SIGTERM), exit_code_of(signal.SIGINT)):
        return "stopped by a signal of its own; the same command goes on"
    return f"exit code {code}" if code else "ended without a summary.json in its directory"


def _outcome(run: RunResult) -> str:
    """What a run that has ended came to, in a few words."""
    failed = [seed.seed for seed in run.seeds if seed.state == "failed"]
    notes = f"; not finite: seed {', '.join(map(str, failed))}" if failed else ""
    if run.threshold is None:
        values = [s.final for s in run.seeds if s.final is not None and s.seed not in failed]
        spread = f"{run.metric} {min(values):.4g} – {max(values):.4g}" if values else "no result"
        return spread + notes
    passed = [s for s in run.seeds if s.steps_to_threshold is not None]
    return f"{len(passed)} of {len(run.seeds)} seeds pass {run.threshold:g}{notes}"
