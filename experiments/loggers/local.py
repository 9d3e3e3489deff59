"""The record of truth: three plain files in the run's directory."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import yaml

from experiments.checkpoint import atomic
from experiments.loggers.base import AbstractLogger, Record, RunInfo

METRICS = "metrics.jsonl"


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
        _replace(self._directory / "config.yaml", yaml.safe_dump(dict(run.config), sort_keys=False))
        path = self._directory / METRICS
        _cut_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def log(self, records: Sequence[Record]) -> None:
        """Appends one line per record.

        Raises: `RuntimeError` if the logger is not open.
        """
        if self._file is None:
            raise RuntimeError("LocalLogger.log was called before open or after close.")
        self._file.writelines(_dumps(asdict(record)) + "\n" for record in records)
        self._file.flush()
        os.fsync(self._file.fileno())  # a checkpoint says how long the file was

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes `summary.json`.

        Raises: `RuntimeError` if the logger was never opened.
        """
        if self._directory is None:
            raise RuntimeError("LocalLogger.finish was called before open.")
        _replace(self._directory / "summary.json", _dumps(dict(summary), indent=2) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read_metrics(directory: str | Path) -> list[Record]:
    """Reads `metrics.jsonl` back, also while it is being written.

    A last line without its newline, left by a run that was killed, is skipped. A run that was
    resumed from a checkpoint may have logged some steps twice: the later value stands, at the
    place of the first.

    Arguments:

    - `directory`: a run's directory.

    Returns: the records, in the order they were logged.

    Raises: `FileNotFoundError` if there is no such file; `ValueError` naming the line if
    a complete line is not a record.
    """
    path = Path(directory) / METRICS
    complete, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    records: dict[tuple[int, int, str, str], Record] = {}
    for number, line in enumerate(complete.split("\n") if complete else [], start=1):
        try:
            fields = json.loads(line)
            record = Record(**(fields | {"value": float(fields["value"])}))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: not a record: {line[:80]!r}") from error
        records[record.step, record.seed, record.split, record.metric] = record
    return list(records.values())


def read_summary(text: str) -> Any:
    """What `summary.json` says; the numbers that JSON has no way to write are numbers again."""
    return _numbers(json.loads(text))


def _numbers(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _numbers(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_numbers(value) for value in data]
    return float(data) if data in ("NaN", "Infinity", "-Infinity") else data


def _dumps(data: Any, indent: int | None = None) -> str:
    return json.dumps(_strict(data), indent=indent, allow_nan=False)


def _strict(data: Any) -> Any:
    """The same data in what JSON can hold; numpy scalars become Python ones."""
    if isinstance(data, Mapping):
        return {str(key): _strict(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_strict(value) for value in data]
    if isinstance(data, Path):
        return str(data)
    if hasattr(data, "item"):
        data = data.item()
    if isinstance(data, float) and not math.isfinite(data):
        return "NaN" if math.isnan(data) else "Infinity" if data > 0 else "-Infinity"
    return data


def _replace(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old text or the new, never a part."""
    with atomic(path) as file:
        file.write(text.encode())


def _cut_torn_line(path: Path) -> None:
    """Removes what follows the last newline, so that appending starts a line of its own."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
