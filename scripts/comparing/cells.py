"""The runs that are of a figure of the paper, and what tables say of a cell."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from experiments.records import Group, merge, read_runs

TASKS = {"figure1": ("area", "volume"), "figure2": ("A5",)}


def paper_groups(results: Path, figure: str) -> list[Group]:
    """The cells below `results/<figure>`; none if there is no such folder.

    Raises:
        ValueError: for a run that was not made with the experiment's settings, and as `read_runs`.
    """
    folder = results / figure
    runs = read_runs([folder]) if folder.is_dir() else []
    for run in runs:
        if run.preset != figure:
            raise ValueError(f"{run.source}: preset: got {run.preset!r}; expected {figure!r}")
    return merge(runs)


def of_figure(groups: Iterable[Group], figure: str) -> list[Group]:
    """The groups of a figure's tasks.

    Raises:
        ValueError: if two differ in their width alone, which the paper's cells do not have.
    """
    found: dict[tuple[object, ...], Group] = {}
    for group in groups:
        cell = group.cell
        if cell.task in TASKS[figure]:
            key = (cell.task, cell.size, cell.model, cell.depth, cell.nonlinear)
            other = found.setdefault(key, group)
            if other is not group:
                sources = f"{other.runs[0].source} and {group.runs[0].source}"
                raise ValueError(f"{sources}: expected one width, got two for {cell}")
    return list(found.values())


def settings_note(group: Group) -> str:
    """Says in which settings the runs of a cell are not alike; nothing if they are."""
    return f"settings differ: {', '.join(group.differing)}" if group.differing else ""


def middle_and_range(
    values: Sequence[float], middle: Callable[..., float] = statistics.fmean
) -> tuple[float, float, float] | tuple[None, None, None]:
    """The middle, the least and the greatest, if there are values."""
    return (middle(values), min(values), max(values)) if values else (None, None, None)
