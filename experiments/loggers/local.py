"""The record of truth: three plain files in the run's directory."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import yaml

from experiments.loggers.base import AbstractLogger, RunInfo
from experiments.results.files import CONFIG, METRICS, SUMMARY, Record, dumps, replace


class LocalLogger(AbstractLogger):
    """Writes `config.yaml`, `metrics.jsonl` and `summary.json` into the run's directory.

    `metrics.jsonl` has one JSON object per record with the keys step, seed, split, metric, value
    and seconds. It is flushed after every `log`, so it can be read while the run goes on and
    after it was killed; opening a directory again continues the file. `config.yaml` and
    `summary.json` are replaced in one move and never seen half written.

    JSON has no NaN or infinity: they are written as the strings `"NaN"`, `"Infinity"` and
    `"-Infinity"`, which keeps which one it was, and which `float` reads back.
    """

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._file: TextIO | None = None

    def open(self, run: RunInfo) -> None:
        self._directory = Path(run.directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        replace(self._directory / CONFIG, yaml.safe_dump(dict(run.config), sort_keys=False))
        path = self._directory / METRICS
        _cut_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def log(self, records: Sequence[Record]) -> None:
        """Appends one line per record.

        Raises: `RuntimeError` if the logger is not open.
        """
        if self._file is None:
            raise RuntimeError("LocalLogger.log was called before open or after close.")
        self._file.writelines(dumps(asdict(record)) + "\n" for record in records)
        self._file.flush()
        os.fsync(self._file.fileno())  # a checkpoint says how long the file was

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes `summary.json`.

        Raises: `RuntimeError` if the logger was never opened.
        """
        if self._directory is None:
            raise RuntimeError("LocalLogger.finish was called before open.")
        replace(self._directory / SUMMARY, dumps(dict(summary), indent=2) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _cut_torn_line(path: Path) -> None:
    """Removes what follows the last newline, so that appending starts a line of its own."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
