"""The files of a run's directory: their names, and how they are read and written.

A file is replaced in one move, so that a reader sees the old text or the new, never a part.
"""

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from experiments.results.schema import check_summary

CONFIG, METRICS, SUMMARY = "config.yaml", "metrics.jsonl", "summary.json"
ERROR, OVERRIDES, IDS = "error.txt", "overrides.yaml", "wandb_ids.json"
EVALUATIONS = "evaluations.jsonl"
"""What `experiments/evaluate.py` appends: records, and what they were evaluated on."""
CHECKPOINTS = "checkpoints"
ANCHOR = re.compile(r"(?m)(?:^|[\s\[{,:-])[&*]\w|<<\s*:")
MOST_BYTES = 2**24
"""More than any text file of a run has, but for its metrics."""


def model_file(seed: int) -> str:
    """The name of the file of a seed's final parameters."""
    return f"model-seed{seed}.eqx"


@dataclass(frozen=True)
class Record:
    """One number of one seed at one step.

    Arguments:

    - `step`: optimiser steps taken when the number was measured.
    - `seed`: the seed it belongs to.
    - `split`: the data it was measured on, `"train"` or `"val"`.
    - `metric`: its name, such as `"accuracy"`, `"rmse"` or `"loss"`.
    - `value`: the number; it may be NaN or infinite.
    - `seconds`: wall-clock seconds since the run's start.
    """

    step: int
    seed: int
    split: str
    metric: str
    value: float
    seconds: float


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
    records: dict[tuple[int, int, str, str], Record] = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                break
            record = parse_record(line)
            if record is None:
                raise ValueError(f"{path}, line {number}: not a record: {line[:80].rstrip()!r}")
            records[record.step, record.seed, record.split, record.metric] = record
    return list(records.values())


def parse_record(line: str) -> Record | None:
    """The record of a line; None if it is none."""
    try:
        fields = json.loads(line)
        record = Record(**(fields | {"value": float(fields["value"])}))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    whole = type(record.step) is int and type(record.seed) is int and record.step >= 0
    named = isinstance(record.split, str) and isinstance(record.metric, str)
    return record if whole and named and isinstance(record.seconds, int | float) else None


def read_summary(path: Path) -> dict[str, Any]:
    """What `summary.json` says; the numbers that JSON has no way to write are numbers again.

    Raises:
        ValueError: if it is damaged, or has other contents than a summary.
    """
    summary = _numbers(read_json(path))
    check_summary(summary)
    return summary


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        ValueError: if it is damaged, nested without end, or far too large.
    """
    try:
        return json.loads(_text(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_yaml(path: Path) -> Any:
    """What a YAML file says, without tags that could call anything.

    Raises:
        ValueError: if it is damaged, nested without end, or far too large.
    """
    text = _text(path)
    if ANCHOR.search(text):  # a few lines of which can stand for more than a memory holds
        raise ValueError("it has anchors or aliases, which no run writes")
    longest = max(map(len, text.splitlines()), default=0)
    # libyaml is ten times faster, and crashes where the plain parser finds too deep a nesting.
    shallow = len(text) < 100_000 and longest < 1_000 and text.count("[") + text.count("{") < 1_000
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader) if shallow else yaml.SafeLoader
    try:
        return yaml.load(text, Loader=loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError((str(error).splitlines() or ["it is no YAML"])[0]) from error


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"it has {size:,} bytes; expected at most {MOST_BYTES:,}")
    return path.read_text(encoding="utf-8")


def check_files(directory: Path) -> None:
    """Refuses a directory that leads out of itself, or holds what is no file.

    Raises:
        ValueError: for a link, which writing would follow, a pipe or a device.
    """
    folders = (directory, directory / CHECKPOINTS)
    for path in (p for folder in folders if folder.is_dir() for p in folder.iterdir()):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            kind = "a link" if path.is_symlink() else "no plain file"
            raise ValueError(f"{path} is {kind}; expected the run's own files in its directory")


def digest(path: Path, size: int) -> str:
    """SHA-256 of the first bytes of a file, which may be missing if there are none."""
    found = hashlib.sha256()
    if size:
        with open(path, "rb") as file:
            while size > 0 and (piece := file.read(min(size, 2**20))):
                found.update(piece)
                size -= len(piece)
    return found.hexdigest()


def _numbers(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _numbers(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_numbers(value) for value in data]
    return float(data) if data in ("NaN", "Infinity", "-Infinity") else data


def dumps(data: Any, indent: int | None = None) -> str:
    """JSON of plain data; numbers that JSON has no way to write become strings."""
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


def replace(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old text or the new, never a part."""
    with atomic(path) as file:
        file.write(text.encode())


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes the place of `path` at the end, on the disk for good, or, if
    anything goes wrong, never existed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        # Made anew: what a link of that name points to stays as it is.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
