"""Weights & Biases: one run per seed, and never in the way of the training run."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from experiments.loggers import wandb_client as client
from experiments.loggers.base import AbstractLogger, RunInfo
from experiments.loggers.figure import draw
from experiments.loggers.history import History
from experiments.results.files import CONFIG, METRICS, SUMMARY, Record, read_metrics

MODES = ("auto", "online", "offline", "disabled")
NEXT_MODE = {"online": "offline", "offline": "disabled"}
MODE_OF_ENVIRONMENT = {"run": "online", "shared": "online", "dryrun": "offline"}
INTERRUPT_SECONDS = 5.0
FIGURE = "metrics.png"
PROJECT = "selective-ssm-cde"

_log = logging.getLogger(__name__)


class WandbLogger(AbstractLogger):
    """Logs each seed as a W&B run of its own, all in the group `RunInfo.group`.

    All records of a seed and a step, which must come in one call of `log`, are one row: the keys
    are `split/metric`, `seconds`, and `step`, which is the x axis of every chart. A run's summary
    holds the last value under each key, the best so far under `split/metric_best` for every split
    but train (the highest accuracy, the lowest of anything else), and what `finish` was given. A
    run that succeeded has its configuration, its summary and a figure as an artifact.

    `mode` is `"online"`, `"offline"` (files that `wandb sync` uploads), `"disabled"`, or
    `"auto"`: what the variable `WANDB_MODE` says, else online if the user is logged in, else
    disabled, usually without importing wandb. Nobody is ever prompted. If wandb fails, or does not
    take the user's key for one, one warning is logged and the run goes on offline, or without W&B
    if that fails as well. No call but `open`, `finish` and `close` waits for the network, and those
    for a limited time.

    The truth is `metrics.jsonl`, which is read in `open`. Online, W&B says how many rows it has
    of a run that is continued, and gets the others. An offline file cannot be continued: each
    process writes a new one of the same id, with all rows from the first on, so that uploading the
    newest, or all in order, gives W&B each row once.

    The ids of the runs are kept in `wandb_ids.json` in the run's directory, so that a run that is
    started again in the same directory continues them. Under `wandb agent` the first seed's run is
    the one that the agent made; the other seeds are runs beside the sweep, in the same group.

    Arguments:

    - `project`, `entity`: where the runs go; if `None`, what the variables `WANDB_PROJECT` and
        `WANDB_ENTITY` say, else `PROJECT` and the user's default entity. A sweep has its own.
    - `mode`: see above.
    - `dir`: the directory for wandb's own files; the run's directory if `None`.

    Raises: `ValueError` if the mode is none of the four.
    """

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        mode: str = "auto",
        dir: str | Path | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"Expected a mode among {MODES}, got {mode!r}.")
        self._project = project
        self._entity = entity
        self._requested_mode = mode
        self._dir = dir
        self._info: RunInfo  # set by open; without it the mode is disabled
        self._ids: dict[str, str] = {}
        self._histories: dict[int, History] = {}
        self._runs: dict[int, Any] = {}
        self._sent: dict[int, int] = {}
        self._best: dict[int, dict[str, float]] = {}
        self._patience = 2 * client.FINISH_SECONDS
        self.mode = "disabled"

    def open(self, run: RunInfo) -> None:
        """Starts one W&B run per seed; the attribute `mode` then tells the mode that came out."""
        self._info = run
        self._histories = {seed: History() for seed in run.seeds}
        self._patience = 2 * client.FINISH_SECONDS
        try:
            self.mode = self._resolve_mode()
            if self.mode != "disabled":
                self._ids = client.read_or_make_ids(Path(run.directory), run.seeds)
                if (Path(run.directory) / METRICS).exists():
                    self._add(read_metrics(run.directory))
        except Exception as error:
            self.mode = "disabled"
            self._warn(error, "it is now disabled")
        self._attempt(self._send)

    def log(self, records: Sequence[Record]) -> None:
        if self.mode != "disabled":
            self._add(records)
            self._attempt(self._send)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes each seed's part of the summary, and the parts common to all, and ends the runs.

        Nested keys are joined with slashes.
        """
        common = {key: value for key, value in summary.items() if key != "seeds"}
        of_seed = summary.get("seeds", {})

        def send() -> None:
            self._send()
            for seed, run in self._runs.items():
                run.summary.update(dict(_flatten(common | dict(of_seed.get(str(seed), {})))))

        self._attempt(send)
        self._end_runs(0, self._collect_files())

    def interrupt(self) -> None:
        """Tells W&B that the runs are preempted, and that `close` is to be quick."""
        self._patience = INTERRUPT_SECONDS
        for run in self._runs.values():
            with contextlib.suppress(Exception):
                run.mark_preempting()

    def close(self) -> None:
        """Ends the runs that `finish` has not ended, marked as failed."""
        self._end_runs(1)

    def amend(
        self, directory: Path, ids: Mapping[int, str], values: Mapping[int, Mapping[str, float]]
    ) -> None:
        """Adds numbers to the summaries of runs that have ended, if the mode comes out as online.

        Their histories stay as they are.

        Arguments:

        - `directory`: of the run.
        - `ids`: the W&B id of each seed.
        - `values`: the numbers of each seed, and what they are called.
        """
        try:
            if self._resolve_mode() != "online":
                return
            import wandb

            for seed, numbers in values.items():
                run = wandb.init(
                    project=self._project or os.environ.get("WANDB_PROJECT") or PROJECT,
                    entity=self._entity,
                    mode="online",
                    dir=str(self._dir or directory),
                    id=ids[seed],
                    resume="must",
                    reinit="create_new",
                    settings=client.make_settings(system_metrics=False),
                )
                run.summary.update(dict(numbers))
                run.finish()
        except Exception as error:
            self._warn(error, "its summary lacks what was evaluated")

    def _resolve_mode(self) -> str:
        """The mode to start in; asks wandb, which is slow to import, only if it has to."""
        mode, asked_for = self._requested_mode, self._requested_mode != "auto"
        if mode == "auto" and (variable := os.environ.get("WANDB_MODE", "").lower()):
            mode, asked_for = MODE_OF_ENVIRONMENT.get(variable, variable), True
            if mode not in MODES[1:]:
                raise ValueError(f"WANDB_MODE is {variable!r}, expected one of {MODES[1:]}")
        if mode in ("offline", "disabled"):
            return mode
        if mode == "auto" and not client.may_be_logged_in():
            return "disabled"

        import wandb

        settings = client.load_settings()
        if mode == "auto" and settings.mode in ("offline", "disabled"):
            return settings.mode
        try:
            if wandb.login(prompt=False, verify=False):
                return "online"
        except wandb.errors.Error:  # which might tell the key
            _log.warning(
                "Weights & Biases refuses the key of WANDB_API_KEY or netrc; expected 40 or more "
                "letters, digits and underscores (`wandb login`): logging offline."
            )
            return "offline"
        if not asked_for:
            return "disabled"
        _log.warning("Not logged in to Weights & Biases (`wandb login`): logging offline.")
        return "offline"

    def _add(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.seed in self._histories:
                self._histories[record.seed].add(record)

    def _send(self) -> None:
        """Starts the runs that are missing, and logs the rows that W&B has not been given."""
        for seed, history in self._histories.items():
            if seed not in self._runs:
                self._start(seed)
            run, rows = self._runs[seed], history.rows[self._sent[seed] :]
            for row in rows:
                run.log(row)
            self._sent[seed] += len(rows)
            if history.best != self._best[seed]:
                run.summary.update(history.best)
                self._best[seed] = dict(history.best)

    def _start(self, seed: int) -> None:
        """Starts a seed's run, and finds out how many of its rows W&B has."""
        import wandb

        info, online = self._info, self.mode == "online"
        root = self._root()
        root.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self._project or os.environ.get("WANDB_PROJECT") or PROJECT,
            entity=self._entity,
            mode=cast(Literal["online", "offline"], self.mode),
            dir=str(root),
            group=info.group,
            name=f"{info.name}-seed{seed}",
            config={**info.config, "seed": seed},
            tags=list(info.tags),
            job_type=info.job_type,
            id=self._ids[str(seed)],
            # `wandb sync` appends a file that says "allow" to the rows W&B has, and these are all.
            resume="allow" if online else "never",
            reinit="create_new",
            settings=client.make_settings(system_metrics=seed == info.seeds[0]),
        )
        self._runs[seed] = run
        if client.agents_run() is not None:
            client.leave_sweep()
            self._project, self._entity = run.project, run.entity
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        self._sent[seed] = self._count_rows(seed) if online else 0
        self._best[seed] = {}
        if online:
            print(f"Weights & Biases, seed {seed}: {run.url}", flush=True)

    def _count_rows(self, seed: int) -> int:
        """How many rows of a run that is continued W&B has.

        It counts a row twice that came again by `wandb sync`; then the last step tells.
        """
        run, run_id = self._runs[seed], self._ids[str(seed)]
        if any(self._root().glob(f"*wandb/*run-*-{run_id}/*.wandb.synced")):
            return self._histories[seed].upto(run.summary.get("step", -1))
        return run.starting_step

    def _attempt(self, action: Callable[[], Any]) -> None:
        """Does something with the runs; if it fails, falls back one mode and does it again."""
        first_error = None
        while self.mode != "disabled":
            try:
                action()
                break
            except Exception as error:
                first_error = first_error or error
                self._finish_runs(1)
                client.release_ids()
                self.mode = NEXT_MODE[self.mode]
        if first_error is not None:
            self._warn(first_error, f"it is now {self.mode}")

    def _collect_files(self) -> list[Path]:
        """What goes into the artifact: the run's own files that exist, and a figure."""
        if self.mode == "disabled":
            return []
        directory, info = Path(self._info.directory), self._info
        try:
            if (directory / METRICS).exists():
                draw(read_metrics(directory), info.metric, info.name, directory / FIGURE)
        except Exception as error:
            self._warn(error, "the run has no figure there")
        paths = [directory / name for name in (CONFIG, SUMMARY, FIGURE)]
        return [path for path in paths if path.is_file()]

    def _end_runs(self, exit_code: int, files: Sequence[Path] = ()) -> None:
        errors = self._finish_runs(exit_code, files, self._patience)
        if "run" in errors:
            command = f"wandb sync --include-online {self._root()}/wandb/*run-*"
            self._warn(errors["run"], f"`{command}` uploads what is missing")
        elif "artifact" in errors:
            self._warn(errors["artifact"], "the run's files are not there")
        self.mode = "disabled"

    def _finish_runs(
        self, exit_code: int, files: Sequence[Path] = (), seconds: float = INTERRUPT_SECONDS
    ) -> dict[str, Exception]:
        """Finishes all runs at once, even if some fail; returns the errors by what failed."""
        errors: dict[str, Exception] = {}

        def finish(seed: int, run: Any) -> None:
            try:
                artifact = client.log_files(run, f"{self._info.name}-seed{seed}", files)
            except Exception as error:
                artifact, errors["artifact"] = None, error
            try:
                run.finish(exit_code=exit_code)
            except Exception as error:
                errors["run"] = error
                return
            try:
                if artifact is not None and self.mode == "online":
                    artifact.wait(timeout=1)  # it has ended; this raises what went wrong
            except Exception as error:
                errors["artifact"] = error

        threads = [threading.Thread(target=finish, args=i, daemon=True) for i in self._runs.items()]
        deadline = time.monotonic() + seconds
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            errors["run"] = TimeoutError(f"no end after {seconds:g} s")
        self._runs.clear()
        return errors

    def _root(self) -> Path:
        return Path(self._dir or self._info.directory)

    def _warn(self, error: Exception, consequence: str) -> None:
        text = (str(error).splitlines() or [""])[0]
        if key := os.environ.get("WANDB_API_KEY"):
            text = text.replace(key, "***")
        what = f"{type(error).__name__}: {text}"
        _log.warning("Weights & Biases failed (%s): %s.", what, consequence)


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value
