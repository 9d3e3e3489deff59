"""What a folder of results has for one of the paper's figures."""

from dataclasses import dataclass
from pathlib import Path

from comparing.cells import TASKS, of_figure, paper_groups

from experiments.published import PublishedCurve, PublishedDepth, read_figure1, read_figure2
from experiments.records import Group, merge, read_runs


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
        groups = of_figure(merge(read_runs([folder])), figure)
        if not groups:
            raise ValueError(f"{folder}: no run of {' or '.join(TASKS[figure])}")
        return Results(groups, [], [])
    table = folder / "published" / f"{figure}.csv"
    return Results(
        of_figure(paper_groups(folder, figure), figure),
        read_figure1(table) if figure == "figure1" else [],
        read_figure2(table) if figure == "figure2" else [],
    )
