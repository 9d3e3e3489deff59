"""The runs that are of a figure of the paper, and what tables say of a cell."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.analysis.settings import check_settings
from experiments.results.cells import Cell
from experiments.results.records import Group, merge, read_run, runs_below

Prescribed = Callable[[str, Cell], Mapping[str, Any]]
"""The settings that a figure's experiment prescribes for a cell."""


def paper_groups(results: Path, figure: str, prescribed: Prescribed | None = None) -> list[Group]:
    """The cells below `results/<figure>`; none if nothing was run.

    Arguments:
        prescribed: what runs are held against; without it, a run's own record of it counts.

    Raises:
        ValueError: for a run that was not made with the experiment's settings; and as `read_run`
            and `merge`.
    """
    folder = results / figure
    runs = [read_run(path) for path in (runs_below(folder) if folder.is_dir() else ())]
    for run in runs:
        if run.preset != figure:
            raise ValueError(f"{run.source}: preset: got {run.preset!r}; expected {figure!r}")
        if run.changed_settings:
            raise ValueError(f"{run.source}: {'; '.join(run.changed_settings[:3])}")
        if prescribed is None:
            continue
        try:
            wanted = prescribed(figure, run.cell)
        except ValueError as error:
            raise ValueError(f"{run.source}: {error}") from error
        check_settings(run, wanted)
    return merge(runs)


def settings_note(group: Group) -> str:
    """Says in which settings the runs of a cell are not alike; nothing if they are."""
    return f"settings differ: {', '.join(group.differing)}" if group.differing else ""


def middle_and_range(
    values: Sequence[float], middle: Callable[..., float] = statistics.fmean
) -> tuple[float, float, float] | tuple[None, None, None]:
    """The middle, the least and the greatest, if there are values."""
    return (middle(values), min(values), max(values)) if values else (None, None, None)
