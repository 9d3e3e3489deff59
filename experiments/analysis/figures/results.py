"""What a folder of results has for one of the paper's figures."""

from dataclasses import dataclass, replace
from pathlib import Path

from experiments.analysis.groups import paper_groups
from experiments.analysis.settings import TASKS
from experiments.results.cells import Cell
from experiments.results.published import PublishedCurve, PublishedDepth, read_figure1, read_figure2
from experiments.results.records import Group, merge, read_runs


@dataclass(frozen=True)
class Results:
    """Our runs of a figure, and the paper's cells; none beside a study of another size."""

    groups: list[Group]
    curves: list[PublishedCurve]
    depths: list[PublishedDepth]


def is_of_paper(folder: Path) -> bool:
    """Whether a folder of results is at the paper's settings, beside the published tables."""
    return (folder / "published").is_dir()


def read_results(folder: Path, figure: str) -> Results:
    """What a folder of results has for "figure1" or "figure2".

    Raises:
        ValueError: for damaged files, or if there is nothing to draw.
    """
    if not is_of_paper(folder):
        own = folder / figure
        runs = read_runs([own if own.is_dir() else folder])
        return Results(_study(merge(runs), folder, figure), [], [])
    table = folder / "published" / f"{figure}.csv"
    return Results(
        paper_groups(folder, figure),
        read_figure1(table) if figure == "figure1" else [],
        read_figure2(table) if figure == "figure2" else [],
    )


def _study(groups: list[Group], folder: Path, figure: str) -> list[Group]:
    """Those of a figure, in a study of another size; of Figure 2, with any one word problem.

    Raises:
        ValueError: if there are none, or, of Figure 1, two that differ in their width alone.
    """
    if figure == "figure1":
        tasks = sorted(TASKS.values())
        found = [group for group in groups if group.cell.task in tasks]
        if not found:
            raise ValueError(f"{folder}: no run of {' or '.join(tasks)}")
        curves: dict[Cell, Group] = {}
        for group in found:
            other = curves.setdefault(replace(group.cell, width=0), group)
            if other is not group:
                sources = f"{other.runs[0].source} and {group.runs[0].source}"
                raise ValueError(f"{sources}: expected one width, got two for {group.cell}")
        return found
    found = [group for group in groups if group.runs[0].metric == "accuracy"]
    tasks = sorted({group.cell.task for group in found})
    if len(tasks) != 1:
        got = f"got {', '.join(tasks)}" if tasks else "got none"
        raise ValueError(f"{folder}: {got}; expected runs of one word problem")
    return found
