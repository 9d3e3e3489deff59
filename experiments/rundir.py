"""A run's directory: one process at a time, and everything needed to go on where it stopped."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import yaml
from jaxtyping import PyTree

from experiments.errors import EnvironmentFault, InUse, OtherRun
from experiments.interruption import Interruption
from experiments.results.files import (
    CHECKPOINTS,
    CONFIG,
    ERROR,
    IDS,
    METRICS,
    SUMMARY,
    read_summary,
)
from experiments.results.identity import code_version, differences
from experiments.results.migration import migrated
from experiments.training import checkpoint
from experiments.training.checkpoint import Checkpoint

LOCK = ".lock"

_log = logging.getLogger(__name__)


class RunDirectory:
    """The directory of a run, and what an earlier process left in it.

    `state` tells what was found: "new"; "finished", with its `summary`; or "resumed", with a
    `restored` checkpoint. In the last case `metrics.jsonl` has been cut to what it was when that
    checkpoint was written: the rest comes again. A run of which a seed failed starts anew.

    To be used as a context manager, which keeps other processes out and notes signals.

    Arguments:
        path: made if it is missing.
        config: the resolved configuration; an earlier run must have had the same, but for keys
            that change no number, and for `train.steps`, which may have become more.

    Raises (on entering):
        OtherRun: if the directory holds a run of another configuration; it names the keys.
        InUse: if another process is running in the directory.
        EnvironmentFault: if the directory, or what is in it, cannot be used.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]):
        self.path = Path(path)
        self.config = config
        self.state = "new"
        self.summary: dict[str, Any] | None = None
        self.restored: Checkpoint | None = None
        self.interruption = Interruption()
        self._stack = contextlib.ExitStack()
        self._writer: ThreadPoolExecutor | None = None
        self._pending: Future[Path] | None = None

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / CHECKPOINTS

    def __enter__(self) -> "RunDirectory":
        try:
            self._stack.enter_context(_locked(self.path))
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
        ids = self.path / IDS
        whole = {
            "procedure": dict(description),
            "config": dict(self.config),
            "code": code_version(),
            "metrics_bytes": _size(self.path / METRICS),
            "wandb_ids": json.loads(ids.read_text()) if ids.exists() else None,
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

    def _find(self) -> None:
        """Looks at what an earlier process left."""
        summary = self.path / SUMMARY
        config = self.path / CONFIG
        checkpoints = checkpoint.list_files(self.checkpoints)
        known = summary.exists() or (self.path / METRICS).exists() or checkpoints
        if known and config.exists():
            before = _read(config, lambda text: migrated(yaml.safe_load(text)))
            if different := differences(before, self.config):
                raise OtherRun(
                    f"run directory {self.path}: it holds a run of another configuration; "
                    f"different are {'; '.join(different)}; choose another hydra.run.dir"
                )
        for torn in self.checkpoints.glob(".checkpoint-*"):  # of a process killed while writing
            torn.unlink()
        (self.path / ERROR).unlink(missing_ok=True)
        if summary.exists():
            self.summary = _read(summary, read_summary)
            failed = any(s.get("failed_at") is not None for s in self.summary["seeds"].values())
            steps = self.config.get("train", {}).get("steps")
            if not failed and (self.summary.get("steps") in (None, steps)):
                self.state = "finished"
                return
            if not failed and not checkpoints:
                raise OtherRun(
                    f"train.steps: got {steps}, but the finished run in {self.path} has no "
                    f"checkpoint to go on from; expected {self.summary['steps']}, as it had"
                )
            if failed:
                _log.warning("%s: a seed failed before; it starts anew.", self.path)
                shutil.rmtree(self.checkpoints, ignore_errors=True)
                (self.path / IDS).unlink(missing_ok=True)
            summary.unlink()
            self.summary = None
        self._resume()

    def _resume(self) -> None:
        """Takes the newest whole checkpoint, and the metrics up to it."""
        metrics = self.path / METRICS
        try:
            found = checkpoint.newest(self.checkpoints, lambda text: _log.warning("%s.", text))
        except checkpoint.CheckpointError as error:
            raise EnvironmentFault(str(error)) from error
        if found is None:
            metrics.unlink(missing_ok=True)
            return
        description = found.description
        if different := differences(migrated(description["config"]), self.config):
            raise OtherRun(
                f"{found.path}: it is of another configuration; different are "
                f"{'; '.join(different)}; choose another hydra.run.dir"
            )
        if description["code"] != code_version():
            _log.warning("%s was written by other code; the run may not be the same.", found.path)
        if _size(metrics) < description["metrics_bytes"]:
            raise EnvironmentFault(
                f"{metrics} is shorter than when {found.path.name} was written; remove the "
                "directory to start again"
            )
        if metrics.exists():
            os.truncate(metrics, description["metrics_bytes"])
        ids = self.path / IDS
        if description["wandb_ids"] and not ids.exists():
            ids.write_text(json.dumps(description["wandb_ids"]))
        self.state, self.restored = "resumed", found


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
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


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """What a text file of a run says.

    Raises:
        EnvironmentFault: if it is damaged.
    """
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        found = error
    if not isinstance(found, dict):
        reason = (str(found).splitlines() or [""])[0]
        raise EnvironmentFault(f"{path} is damaged ({reason}); remove the directory to start again")
    return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
