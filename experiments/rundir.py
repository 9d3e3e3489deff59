"""A run's directory: one process at a time, and everything needed to go on where it stopped."""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from experiments.errors import EnvironmentFault, OtherRun
from experiments.interruption import Interruption
from experiments.lock import locked
from experiments.results import schema
from experiments.results.files import (
    CHECKPOINTS,
    CONFIG,
    ERROR,
    IDS,
    METRICS,
    SUMMARY,
    check_files,
    digest,
    parse_record,
    read_json,
    read_summary,
    read_yaml,
)
from experiments.results.identity import code_version, configuration_of, differences, identity_of
from experiments.results.migration import migrated
from experiments.training import checkpoint
from experiments.training.checkpoint import Checkpoint

_log = logging.getLogger(__name__)


class RunDirectory:
    """The directory of a run, and what an earlier process left in it.

    `state` tells what was found: "new"; "finished", with its `summary`; or "resumed", with a
    `restored` checkpoint. In the last case `metrics.jsonl` has been cut to what it was when that
    checkpoint was written: the rest comes again. A run of which a seed failed starts anew. What was
    found is held against what is asked for, by configuration and by checksum, before it is used;
    `notes` says what the user should know of it.

    To be used as a context manager, which keeps other processes out and notes signals.

    Arguments:
        path: made if it is missing.
        config: the resolved configuration; an earlier run must have had the same, but for keys
            that change no number.
        with_steps: the configuration of the same command with another number of steps. A run with
            fewer steps is extended, if it is otherwise what the command would have been with those.
        check: raises ValueError for what the procedure could not have put into a checkpoint.

    Raises (on entering):
        OtherRun: if the directory holds a run of another configuration; it names the keys.
        InUse: if another process is running in the directory.
        EnvironmentFault: if the directory, or what is in it, cannot be used.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        with_steps: Callable[[int], Mapping[str, Any]] | None = None,
        check: Callable[[Mapping[str, Any]], None] = lambda description: None,
    ):
        self.path = Path(path)
        self.config = config
        self.state = "new"
        self.summary: dict[str, Any] | None = None
        self.restored: Checkpoint | None = None
        self.notes: list[str] = []
        self.interruption = Interruption()
        self._with_steps, self._check = with_steps, check
        self._stack = contextlib.ExitStack()
        self._writer: ThreadPoolExecutor | None = None
        self._pending: Future[Path] | None = None

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / CHECKPOINTS

    def __enter__(self) -> "RunDirectory":
        try:
            check_files(self.path)
        except (ValueError, OSError) as error:
            raise EnvironmentFault(str(error)) from error
        try:
            self._stack.enter_context(locked(self.path))
            self._find()
        except OSError as error:
            self._stack.close()
            raise EnvironmentFault(
                f"run directory {self.path}: {error.strerror or error}; expected a directory that "
                "can be written"
            ) from error
        except BaseException:
            self._stack.close()
            raise
        self._stack.enter_context(self.interruption.watching())
        self._writer = self._stack.enter_context(ThreadPoolExecutor(1, "checkpoint"))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()

    def save(self, tree: PyTree, description: Mapping[str, Any], *, wait: bool = False) -> None:
        """Writes a checkpoint, off this thread unless it is to `wait`.

        Arguments:
            tree: of device arrays, which may be given away as soon as this returns.
            description: of the procedure, plain data; `restored.description["procedure"]` later.

        Raises:
            EnvironmentFault: if this checkpoint or the one before could not be written.
        """
        self.flush()
        assert self._writer is not None
        size = _size(self.path / METRICS)
        whole = {
            "procedure": dict(description),
            "config": dict(self.config),
            "code": code_version(),
            "metrics_bytes": size,
            "metrics_sha256": digest(self.path / METRICS, size),
            "wandb_ids": read_ids(self.path),
        }
        frozen = json.loads(json.dumps(whole))  # the caller may go on to change it
        copies = jax.tree.map(jnp.copy, tree)
        self._pending = self._writer.submit(checkpoint.write, self.checkpoints, copies, frozen)
        if wait:
            self.flush()

    def flush(self) -> None:
        """Waits for the checkpoint that is being written.

        Raises:
            EnvironmentFault: if it could not be.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except OSError as error:
            raise EnvironmentFault(
                f"checkpoint in {self.checkpoints}: {error.strerror or error}; the last good one "
                "is kept, and the same command goes on from it"
            ) from error

    def finish(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """The summary, with what tells later whose it is."""
        return {
            **summary,
            "identity": identity_of(self.config, code_version()),
            "configuration": configuration_of(self.config),
            "code": code_version(),
        }

    def _find(self) -> None:
        """Looks at what an earlier process left."""
        summary, checkpoints = self.path / SUMMARY, checkpoint.list_files(self.checkpoints)
        for torn in self.checkpoints.glob(".checkpoint-*"):  # of a process killed while writing
            torn.unlink()
        if not summary.exists() and not checkpoints:  # what else there is comes again
            (self.path / ERROR).unlink(missing_ok=True)
            (self.path / METRICS).unlink(missing_ok=True)
            return
        before = self._before()
        (self.path / ERROR).unlink(missing_ok=True)
        if summary.exists():
            found = _read(summary, read_summary)
            self._check_summary(found, before)
            failed = any(s.get("failed_at") is not None for s in found["seeds"].values())
            steps = self.config.get("train", {}).get("steps")
            if not failed and found.get("steps") in (None, steps):
                self.state, self.summary = "finished", found
                self._note_code(str(found.get("code")), SUMMARY)
                return
            if not failed and not checkpoints:
                raise OtherRun(
                    f"train.steps: got {steps}, but the finished run in {self.path} has no "
                    f"checkpoint to go on from; expected {found['steps']}, as it had"
                )
            if failed:
                _log.warning("%s: a seed failed before; it starts anew.", self.path)
                shutil.rmtree(self.checkpoints, ignore_errors=True)
                (self.path / IDS).unlink(missing_ok=True)
            summary.unlink()
        self._resume()

    def _before(self) -> Mapping[str, Any] | None:
        """The configuration as it is written there, held against the one asked for; None if there
        is none.

        Raises:
            OtherRun: if they compute different things.
        """
        if not (self.path / CONFIG).exists():
            return None
        before = _read(self.path / CONFIG, read_yaml)
        try:
            now = migrated(before)
        except ValueError as error:
            raise _damaged(self.path / CONFIG, error) from error
        self._compare(now, str(self.path))
        return before

    def _compare(self, before: Mapping[str, Any], where: str) -> None:
        """Raises OtherRun unless the run is the one asked for, or would be with as few steps."""
        different = differences(before, self.config)
        if not different:
            return
        steps, now = (c.get("train", {}).get("steps") for c in (before, self.config))
        both = type(steps) is int and type(now) is int
        if both and steps < now and self._with_steps is not None:
            if not (rest := differences(before, self._with_steps(steps))):
                self._note_extension(steps, now, different)
                return
            different = rest
        raise OtherRun(
            f"run directory {where}: it holds a run of another configuration; different are "
            f"{'; '.join(different)}; choose another hydra.run.dir"
        )

    def _note_extension(self, steps: int, now: int, different: list[str]) -> None:
        note = f"Extended from {steps:,} to {now:,} steps"
        if others := [d for d in different if not d.startswith("train.steps: ")]:
            note += (
                f", and with them {'; '.join(others)}: from here on it follows the new schedule, "
                f"and its numbers are not those of {now:,} steps from the start"
            )
        self.notes = [f"{note}."]

    def _check_summary(self, found: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
        """Raises OtherRun unless `summary.json` is of the run whose configuration stands there."""
        of, config = found.get("configuration"), self.config if before is None else before
        known = of is not None or before is not None  # older summaries do not say
        if not known or (of is not None and of != configuration_of(config)):
            raise OtherRun(
                f"{self.path / SUMMARY}: it is of another run than "
                f"{'the one asked for' if before is None else CONFIG}; expected this run's; "
                "remove it, or choose another hydra.run.dir"
            )
        seeds = {str(seed) for seed in self.config.get("seeds", ())}
        if set(found["seeds"]) != seeds:
            raise OtherRun(
                f"{self.path / SUMMARY}: it has seeds {', '.join(found['seeds'])}; expected "
                f"{', '.join(sorted(seeds))}"
            )

    def _note_code(self, code: str, what: str) -> None:
        if code != code_version():
            self.notes.append(
                f"{what} was written by other code ({code}, now {code_version()}): this code may "
                "give other numbers; another hydra.run.dir runs it anew."
            )

    def _resume(self) -> None:
        """Takes the newest whole checkpoint, and the metrics up to it."""
        metrics = self.path / METRICS
        try:
            found = checkpoint.newest(
                self.checkpoints, lambda text: _log.warning("%s.", text), self._check_description
            )
        except checkpoint.CheckpointError as error:
            raise EnvironmentFault(str(error)) from error
        if found is None:
            metrics.unlink(missing_ok=True)
            return
        description = found.description
        self.notes.clear()
        self._compare(migrated(description["config"]), str(found.path))
        self._note_code(description["code"], found.path.name)
        self._check_metrics(metrics, found)
        if metrics.exists():
            os.truncate(metrics, description["metrics_bytes"])
        if description["wandb_ids"] and not (self.path / IDS).exists():
            (self.path / IDS).write_text(json.dumps(description["wandb_ids"]))
        self.state, self.restored = "resumed", found

    def _check_description(self, description: Mapping[str, Any]) -> None:
        """Raises ValueError for a checkpoint that no run could have written."""
        schema.check(schema.Description, description)
        migrated(description["config"])
        self._check(description)

    def _check_metrics(self, metrics: Path, found: Checkpoint) -> None:
        """Raises EnvironmentFault unless the metrics begin as they did at the checkpoint."""
        size, sha = found.description["metrics_bytes"], found.description.get("metrics_sha256")
        if _size(metrics) < size:
            wrong = f"{metrics} is shorter than when {found.path.name} was written"
        elif digest(metrics, size) == sha or (sha is None and _is_old(found)):
            return
        else:
            with open(metrics, "rb") as file:
                lines = file.read(size).decode(errors="replace").splitlines()
            bad = [n for n, line in enumerate(lines, 1) if parse_record(line) is None]
            where = f"{metrics}, line {bad[0]}" if bad else f"{metrics}, one of {len(lines)} lines"
            wrong = f"{where}: it is not what it was when {found.path.name} was written"
        raise EnvironmentFault(f"{wrong}; restore the file, or remove the directory to start again")


def _is_old(found: Checkpoint) -> bool:
    """Whether a checkpoint was written before there were checksums."""
    return found.description["config"].get("version", 1) < 3


def read_ids(directory: Path) -> dict[str, str] | None:
    """The W&B ids of a run's seeds, or None if there are none that can be read."""
    try:
        ids = read_json(directory / IDS)
    except (OSError, ValueError):
        return None
    texts = isinstance(ids, dict) and all(isinstance(i, str) for i in ids.values())
    return ids if texts and ids else None


def _read(path: Path, parse: Callable[[Path], Any]) -> dict[str, Any]:
    """What a text file of a run says.

    Raises:
        EnvironmentFault: if it is damaged.
    """
    try:
        found = parse(path)
    except ValueError as error:
        raise _damaged(path, error) from error
    if not isinstance(found, dict):
        raise _damaged(path, f"it holds {type(found).__name__}, expected a mapping")
    return found


def _damaged(path: Path, reason: Exception | str) -> EnvironmentFault:
    reason = (str(reason).splitlines() or [""])[0]
    return EnvironmentFault(
        f"{path} is damaged ({reason}); restore it, or remove the directory to start again"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
