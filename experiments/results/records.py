"""Runs as typed rows: read from their directories, and merged by cell."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.results.cells import Cell, cell_in, is_signature
from experiments.results.files import CONFIG, METRICS, SUMMARY, read_json, read_metrics, read_yaml
from experiments.results.identity import UNRELATED, flatten
from experiments.results.migration import migrated
from experiments.results.reading import mapping, number, reading


@dataclass(frozen=True)
class SeedResult:
    """How one seed of a run went.

    Arguments:
        seed: its number.
        state: "failed" is a loss or gradient that was not finite; "unfinished" has no summary.
        curve: (step, value) of the validation metric, by step; empty if only a summary is known.
        final: the last value; None before the first evaluation.
        best: the best finite value, or None.
        steps: optimiser steps taken, as far as is known.
        steps_to_threshold: the step of the first evaluation past the run's threshold, or None.
        seconds: wall-clock seconds from the run's start to the seed's last evaluation.
        device: the kind of device; None if the run did not come to say.
    """

    seed: int
    state: Literal["finished", "failed", "unfinished"]
    curve: tuple[tuple[int, float], ...]
    final: float | None
    best: float | None
    steps: int
    steps_to_threshold: int | None
    seconds: float | None
    device: str | None


@dataclass(frozen=True)
class RunResult:
    """A run: one configuration, one or more seeds.

    Arguments:
        source: its directory or address.
        preset: "quick", "figure1", "figure2" or "small".
        metric: the name of the validation metric, "rmse" or "accuracy".
        threshold: past which a seed is solved and stops, or None.
        baselines: what trivial predictors reach; empty if the run is unfinished.
        settings: the configuration, keys joined by dots, less what changes nothing.
        changed_settings: what is not as its experiment prescribes, as the run recorded it.
        changed: when its results were last written, in seconds since 1970; 0 if that is not known.
    """

    source: str
    cell: Cell
    preset: str
    metric: str
    threshold: float | None
    baselines: Mapping[str, float]
    settings: Mapping[str, Any]
    seeds: tuple[SeedResult, ...]
    changed_settings: tuple[str, ...] = ()
    changed: float = 0.0


@dataclass(frozen=True)
class Group:
    """All runs of a cell.

    Arguments:
        runs: no two with the same seed.
        older: what newer runs of the same seeds have taken the place of.
    """

    cell: Cell
    runs: tuple[RunResult, ...]
    older: tuple[RunResult, ...] = ()

    @property
    def seeds(self) -> list[SeedResult]:
        """Every seed, by number."""
        return sorted((s for run in self.runs for s in run.seeds), key=lambda s: s.seed)

    @property
    def differing(self) -> list[str]:
        """The settings in which the runs are not alike."""
        return _differing([run.settings for run in self.runs])


def read_runs(paths: Iterable[Path]) -> list[RunResult]:
    """Every run at or below the paths; see `find_runs` and `read_run` for the errors."""
    return [read_run(directory) for directory in find_runs(paths)]


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run directories at or below the paths, at any depth.

    Raises:
        ValueError: if there are none at all.
    """
    paths = list(paths)
    found: dict[Path, Path] = {}
    for path in paths:
        below = list(runs_below(path)) if path.is_dir() else []
        found |= {directory.resolve(): directory for directory in below}
    if paths and not found:
        raise ValueError(
            f"{', '.join(map(str, paths))}: expected run directories, or folders of them"
        )
    return list(found.values())


def runs_below(path: Path) -> Iterator[Path]:
    """The run directories at or below a folder; there are none below a run directory."""
    if (path / CONFIG).exists() or (path / METRICS).exists():
        yield path
        return
    for child in sorted(path.iterdir()):
        if child.is_dir():
            yield from runs_below(child)


def read_run(directory: Path) -> RunResult:
    """One run directory; without `summary.json`, what `metrics.jsonl` tells of an unfinished run.

    Raises:
        ValueError: for a missing or damaged file; it names the file.
    """
    path, summary_path = directory / CONFIG, directory / SUMMARY
    with reading(path):
        config = mapping(read_yaml(path))
        run, numbers = describe(config, str(directory)), [int(seed) for seed in config["seeds"]]
    summary: dict[str, Any] | None = None
    if summary_path.exists():
        with reading(summary_path):
            summary = mapping(read_json(summary_path))
            baselines = {key: float(value) for key, value in summary["baselines"].items()}
            others = tuple(map(str, summary.get("changed_settings") or ()))
            run = dataclasses.replace(
                run, metric=str(summary["metric"]), baselines=baselines, changed_settings=others
            )
    curves: dict[int, list[tuple[int, float, float]]] = {}
    if summary is not None or (directory / METRICS).exists():
        with reading(directory / METRICS):
            curves = _curves(directory, run.metric)
    seeds = [_unfinished(run, seed, curves.get(seed, [])) for seed in numbers]
    if summary is not None:
        with reading(summary_path):
            device = summary.get("device")
            seeds = [ended(s, summary["seeds"][str(s.seed)], run.metric, device) for s in seeds]
    files = [directory / SUMMARY, directory / METRICS, path]
    changed = next(file.stat().st_mtime for file in files if file.exists())
    return dataclasses.replace(run, seeds=tuple(seeds), changed=changed)


def describe(config: Mapping[str, Any], source: str) -> RunResult:
    """The run of a resolved configuration of any version, without any result yet.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if it is not a run's configuration.
    """
    config = migrated(config)
    cell, trained = cell_in(config), config["procedure"] == "train"
    unrelated = tuple(f"{key}." for key in (*UNRELATED, "seeds", "seed"))
    settings = {k: v for k, v in flatten(config).items() if not f"{k}.".startswith(unrelated)}
    return RunResult(
        source,
        cell,
        preset=str(config["preset"]),
        metric="rmse" if is_signature(config["task"]) else "accuracy",
        threshold=number(config["train"]["stop_at"]) if trained else None,
        baselines={},
        settings=settings,
        seeds=(),
    )


def _curves(directory: Path, metric: str) -> dict[int, list[tuple[int, float, float]]]:
    """The (step, value, seconds) of each seed's validation metric, by step."""
    curves: dict[int, list[tuple[int, float, float]]] = {}
    for r in read_metrics(directory):
        if (r.split, r.metric) == ("val", metric):
            curves.setdefault(int(r.seed), []).append((int(r.step), r.value, float(r.seconds)))
    return {seed: sorted(records) for seed, records in curves.items()}


def _unfinished(
    run: RunResult, seed: int, records: Sequence[tuple[int, float, float]]
) -> SeedResult:
    """A seed from its records alone."""
    curve = tuple((step, value) for step, value, _ in records)
    finite = [value for _, value in curve if math.isfinite(value)]
    return SeedResult(
        seed,
        "unfinished",
        curve,
        final=curve[-1][1] if curve else None,
        best=max(finite, key=lambda value: better(run.metric) * value, default=None),
        steps=curve[-1][0] if curve else 0,
        steps_to_threshold=first_past(curve, run.threshold, run.metric),
        seconds=records[-1][2] if records else None,
        device=None,
    )


def ended(
    result: SeedResult, summary: Mapping[str, Any], metric: str, device: Mapping[str, Any] | None
) -> SeedResult:
    """A seed's result, completed by its part of a run's summary.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if the summary is damaged.
    """
    past = summary.get("steps_to_threshold")
    return dataclasses.replace(
        result,
        state="finished" if summary.get("failed_at") is None else "failed",
        final=number(summary["final"].get(metric)),
        best=number(summary.get(f"best_{metric}")),
        steps=int(summary.get("steps", 0)),
        steps_to_threshold=None if past is None else int(past),
        device=None if device is None else str(device["kind"]),
    )


def first_past(
    curve: Sequence[tuple[int, float]], threshold: float | None, metric: str
) -> int | None:
    """The first step whose value is better than a threshold, if there is any."""
    if threshold is None:
        return None
    sign = better(metric)
    return next((step for step, value in curve if sign * value > sign * threshold), None)


def better(metric: str) -> int:
    """1 if more of a metric is better, −1 if less is."""
    return 1 if metric.startswith("accuracy") else -1


def merge(runs: Iterable[RunResult]) -> list[Group]:
    """The runs of each cell together, cells in order.

    Raises:
        ValueError: if a cell has the same seed twice; it names both runs.
    """
    runs = list(runs)
    seen: dict[tuple[Cell, int], RunResult] = {}
    for run in runs:
        for result in run.seeds:
            other = seen.setdefault((run.cell, result.seed), run)
            if other is not run:
                differing = ", ".join(_differing([other.settings, run.settings]))
                raise ValueError(
                    f"seed {result.seed} of {run.cell} twice: {other.source} and {run.source} "
                    f"(different settings: {differing or 'none'})"
                )
    return merge_newest(runs)


def merge_newest(runs: Iterable[RunResult]) -> list[Group]:
    """The runs of each cell together, cells in order; of a seed that was run more than once the
    newest counts, a finished one before others."""
    cells: dict[Cell, list[RunResult]] = {}
    for run in runs:
        cells.setdefault(run.cell, []).append(run)
    return [_newest(cell, members) for cell, members in sorted(cells.items())]


def _newest(cell: Cell, runs: Sequence[RunResult]) -> Group:
    chosen: dict[int, tuple[tuple[bool, float], RunResult]] = {}
    for run in runs:
        for result in run.seeds:
            rank = (result.state != "unfinished", run.changed)
            if result.seed not in chosen or rank > chosen[result.seed][0]:
                chosen[result.seed] = rank, run
    kept, older = [], []
    for run in runs:
        newest = tuple(s for s in run.seeds if chosen[s.seed][1] is run)
        rest = tuple(s for s in run.seeds if chosen[s.seed][1] is not run)
        if newest:
            kept.append(dataclasses.replace(run, seeds=newest))
        if rest:
            older.append(dataclasses.replace(run, seeds=rest))
    return Group(cell, tuple(kept), tuple(older))


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if any(s.get(key) != settings[0].get(key) for s in settings)]
