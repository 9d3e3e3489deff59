"""Weights & Biases: one run per seed, and never in the way of the training run."""

import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from experiments.loggers.base import AbstractLogger, Record, RunInfo
from experiments.loggers.local import METRICS, read_metrics

MODES = ("auto", "online", "offline", "disabled")
NEXT_MODE = {"online": "offline", "offline": "disabled"}
MODE_OF_ENVIRONMENT = {"run": "online", "shared": "online", "dryrun": "offline"}
INIT_SECONDS = 30.0
FINISH_SECONDS = 30.0

_log = logging.getLogger(__name__)


class WandbLogger(AbstractLogger):
    """Logs each seed as a W&B run of its own, all in the group `RunInfo.group`.

    A record becomes the key `split/metric`, logged with the keys `step`, which is the x axis of
    every chart, and `seconds`. A run's summary holds the last value under that key, the best so
    far under `split/metric_best` for every split but train (the highest accuracy, the lowest of
    anything else), and what `finish` was given.

    `mode` is `"online"`, `"offline"` (files that `wandb sync` uploads), `"disabled"`, or
    `"auto"`: what the variable `WANDB_MODE` says, else online if the user is logged in, else
    disabled, usually without importing wandb. Nobody is ever prompted. If wandb fails, one warning
    is logged and the run goes on offline, or without W&B if that fails as well.

    The ids of the runs are kept in `wandb_ids.json` in the run's directory, so that a run that is
    started again in the same directory continues them.

    Arguments:

    - `project`, `entity`: where the runs go; the user's default entity if `None`.
    - `mode`: see above.
    - `dir`: the directory for wandb's own files; the run's directory if `None`.

    Raises: `ValueError` if the mode is none of the four.
    """

    def __init__(
        self,
        project: str,
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
        self._runs: dict[int, Any] = {}
        self._best: dict[tuple[int, str], float] = {}
        self.mode = "disabled"

    def open(self, run: RunInfo) -> None:
        """Starts one W&B run per seed; the attribute `mode` then tells the mode that came out."""
        self._info = run
        self._best.clear()
        try:
            self.mode = self._resolve_mode()
            if self.mode != "disabled":
                self._ids = _read_or_make_ids(Path(run.directory), run.seeds)
                self._note_earlier_records(Path(run.directory))
        except Exception as error:
            self.mode = "disabled"
            self._warn(error, "it is now disabled")
        self._attempt(self._ensure_runs)

    def log(self, records: Sequence[Record]) -> None:
        if self.mode == "disabled":
            return
        rows: dict[tuple[int, int], dict[str, float]] = {}
        best: dict[int, dict[str, float]] = {}
        for record in records:
            row = rows.setdefault((record.step, record.seed), {"step": record.step})
            row |= {"seconds": record.seconds, _key(record): record.value}
            if self._is_best(record):
                best.setdefault(record.seed, {})[f"{_key(record)}_best"] = record.value

        def send() -> None:
            self._ensure_runs()
            for (_, seed), row in rows.items():
                self._runs[seed].log(row)
            for seed, values in best.items():
                self._runs[seed].summary.update(values)

        self._attempt(send)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes each seed's part of the summary, and the parts common to all, and ends the runs.

        Nested keys are joined with slashes.
        """
        common = {key: value for key, value in summary.items() if key != "seeds"}
        of_seed = summary.get("seeds", {})

        def send() -> None:
            self._ensure_runs()
            for seed, run in self._runs.items():
                run.summary.update(dict(_flatten(common | dict(of_seed.get(str(seed), {})))))

        self._attempt(send)
        self._end_runs(exit_code=0)

    def close(self) -> None:
        """Ends the runs that `finish` has not ended, marked as failed."""
        self._end_runs(exit_code=1)

    def _resolve_mode(self) -> str:
        """The mode to start in; asks wandb, which is slow to import, only if it has to."""
        mode, asked_for = self._requested_mode, self._requested_mode != "auto"
        if mode == "auto" and (variable := os.environ.get("WANDB_MODE", "").lower()):
            mode, asked_for = MODE_OF_ENVIRONMENT.get(variable, variable), True
            if mode not in MODES[1:]:
                raise ValueError(f"WANDB_MODE is {variable!r}, expected one of {MODES[1:]}")
        if mode in ("offline", "disabled"):
            return mode
        if mode == "auto" and not _may_be_logged_in():
            return "disabled"

        import wandb

        settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
        if mode == "auto" and settings.mode in ("offline", "disabled"):
            return settings.mode
        if wandb.login(prompt=False, verify=False):
            return "online"
        if not asked_for:
            return "disabled"
        _log.warning("Not logged in to Weights & Biases (`wandb login`): logging offline.")
        return "offline"

    def _ensure_runs(self) -> None:
        for index, seed in enumerate(self._info.seeds):
            if seed not in self._runs:
                self._runs[seed] = self._init(seed, system_metrics=index == 0)

    def _init(self, seed: int, *, system_metrics: bool) -> Any:
        import wandb

        info = self._info
        root = Path(self._dir or info.directory)
        root.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self._project,
            entity=self._entity,
            mode=cast(Literal["online", "offline"], self.mode),
            dir=str(root),
            group=info.group,
            name=f"{info.name}-seed{seed}",
            config={**info.config, "seed": seed},
            tags=list(info.tags),
            job_type=info.job_type,
            id=self._ids[str(seed)],
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
                x_transaction_log_flush_interval=1.0,
                x_disable_stats=not system_metrics,
            ),
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        if best := {f"{key}_best": value for (of, key), value in self._best.items() if of == seed}:
            run.summary.update(best)
        if self.mode == "online":
            print(f"Weights & Biases, seed {seed}: {run.url}", flush=True)
        return run

    def _attempt(self, action: Callable[[], None]) -> None:
        """Does something with the runs; if it fails, falls back one mode and does it again."""
        first_error = None
        while self.mode != "disabled":
            try:
                action()
                break
            except Exception as error:
                first_error = first_error or error
                self._finish_runs(exit_code=1)
                _release_ids()
                self.mode = NEXT_MODE[self.mode]
        if first_error is not None:
            self._warn(first_error, f"it is now {self.mode}")

    def _end_runs(self, exit_code: int) -> None:
        if error := self._finish_runs(exit_code):
            self._warn(error, "`wandb sync` uploads what is missing")
        self.mode = "disabled"

    def _finish_runs(self, exit_code: int) -> Exception | None:
        """Finishes every run, even if some fail; returns the last error."""
        last_error = None
        for run in self._runs.values():
            try:
                run.finish(exit_code=exit_code)
            except Exception as error:
                last_error = error
        self._runs.clear()
        return last_error

    def _warn(self, error: Exception, consequence: str) -> None:
        text = (str(error).splitlines() or [""])[0]
        if key := os.environ.get("WANDB_API_KEY"):
            text = text.replace(key, "***")
        what = f"{type(error).__name__}: {text}"
        _log.warning("Weights & Biases failed (%s): %s.", what, consequence)

    def _is_best(self, record: Record) -> bool:
        if record.split == "train" or not math.isfinite(record.value):
            return False
        sign = 1.0 if record.metric.startswith("accuracy") else -1.0
        name = (record.seed, _key(record))
        if name in self._best and sign * record.value <= sign * self._best[name]:
            return False
        self._best[name] = record.value
        return True

    def _note_earlier_records(self, directory: Path) -> None:
        """Lets the best of a continued run count what was logged before."""
        if (directory / METRICS).exists():
            for record in read_metrics(directory):
                self._is_best(record)


def _key(record: Record) -> str:
    return f"{record.split}/{record.metric}"


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _read_or_make_ids(directory: Path, seeds: Sequence[int]) -> dict[str, str]:
    """The W&B id of every seed, the same each time for one directory."""
    path = directory / "wandb_ids.json"
    ids = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if missing := [str(seed) for seed in seeds if str(seed) not in ids]:
        ids |= {seed: secrets.token_hex(8) for seed in missing}
        directory.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(ids, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    return ids


def _release_ids() -> None:
    """Stops wandb's background process, in which a run that failed to start still holds its id."""
    try:
        import wandb

        wandb.teardown()
    except Exception as error:
        _log.debug("Weights & Biases did not shut down: %s", error)


def _may_be_logged_in() -> bool:
    """Whether credentials or settings of wandb can exist at all; looks at names, reads nothing."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    home = Path(os.path.expanduser("~"))
    netrc = [Path(os.environ["NETRC"])] if os.environ.get("NETRC") else [home / ".netrc"]
    settings = Path(os.environ.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb") / "settings"
    local = [Path(os.environ.get("WANDB_DIR", ".")) / name for name in ("wandb", ".wandb")]
    files = [*netrc, home / "_netrc", settings, *(folder / "settings" for folder in local)]
    return any(file.expanduser().is_file() for file in files)
