"""A row for each cell of any runs."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from experiments.analysis.groups import middle_and_range, settings_note
from experiments.results.records import Group


def runs_rows(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """The rows, by task, model and size."""
    ordered = ("task", "model", "size", "depth")
    rows = [row for group in groups for row in _rows_of(group)]
    return sorted(rows, key=lambda row: [row[key] for key in ordered])


def _rows_of(group: Group) -> list[dict[str, Any]]:
    """The row of the newest runs, and one for each that they have taken the place of."""
    row = runs_row(group)
    if group.older:
        sources = ", ".join(run.source for run in group.runs)
        row["note"] = "; ".join(filter(None, [f"newest: {sources}", row["note"]]))
    older = [runs_row(Group(group.cell, (run,))) for run in group.older]
    for run, other in zip(group.older, older, strict=True):
        differing = settings_note(Group(group.cell, (group.runs[0], run)))
        other["note"] = "; ".join(filter(None, [f"older, not counted: {run.source}", differing]))
    return [row, *older]


def runs_row(group: Group) -> dict[str, Any]:
    """The seeds of a cell, by their last validation metric.

    Median steps, to the threshold, count a seed that is not solved as never.
    """
    run, seeds = group.runs[0], group.seeds
    mean, low, high = middle_and_range([s.final for s in seeds if s.final is not None])
    solved = median = None
    if run.threshold is not None:
        steps = [math.inf if s.steps_to_threshold is None else s.steps_to_threshold for s in seeds]
        solved = sum(step < math.inf for step in steps) / len(steps)
        median = statistics.median(steps)
    return {
        **asdict(group.cell),
        "metric": run.metric,
        "seeds": len(seeds),
        "mean": mean,
        "min": low,
        "max": high,
        "solved": solved,
        "median_steps": None if median == math.inf else median,
        "baselines": _baselines(group),
        "state": _count([s.state for s in seeds]),
        "note": settings_note(group),
    }


def _baselines(group: Group) -> str:
    """Such as "zero 0.11195, linear 0.11206": what trivial predictors reach in the metric."""
    run = next((run for run in group.runs if run.baselines), group.runs[0])
    named = [(k, v) for k, v in run.baselines.items() if k.startswith(f"{run.metric}_")]
    shown = (f"{k.removeprefix(f'{run.metric}_').replace('_', ' ')} {v:.5g}" for k, v in named)
    return ", ".join(shown)


def _count(states: list[str]) -> str:
    """ "finished" if all are, else such as "2 finished, 1 failed"."""
    found = dict.fromkeys(states)
    return ", ".join(s if len(found) == 1 else f"{states.count(s)} {s}" for s in found)
