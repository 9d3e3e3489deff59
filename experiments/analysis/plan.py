"""Which cell comes next, of those that are missing.

A chain goes through the cells of one model in a figure. Asked with the finished runs, it tells the
next job, so that what was run anywhere, by a sweep on a cluster as well, is not run again.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from experiments.analysis.depths import minimum_depths
from experiments.analysis.settings import TASKS, cell_overrides
from experiments.results.cells import Cell
from experiments.results.published import read_figure1, read_figure2
from experiments.results.records import Group

WIDTHS = (16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Job:
    """Seeds to run of one cell.

    Arguments:
        model: its name in `configs/experiment/<figure>`.
        size: the length, or the dimension.
        depth: number of blocks.
        seeds: to train in one program.
        nonlinear: in Figure 1, whether there is an activation.
        width: in the study of widths; else None, that of the experiment.
    """

    model: str
    size: int
    depth: int
    seeds: tuple[int, ...]
    nonlinear: bool = False
    width: int | None = None

    @property
    def name(self) -> str:
        """Of the run's directory."""
        parts = [self.model, str(self.size), f"depth{self.depth}"]
        parts += ["nonlinear"] if self.nonlinear else []
        parts += [] if self.width is None else [f"width{self.width}"]
        return "-".join([*parts, "seeds" + "_".join(map(str, self.seeds))])

    def is_of(self, cell: Cell) -> bool:
        """Whether the seeds are of this cell."""
        ours = (self.model, self.size, self.depth, self.nonlinear)
        there = (cell.model, cell.size, cell.depth, cell.nonlinear)
        return ours == there and self.width in (None, cell.width)

    def overrides(self, figure: str) -> list[str]:
        """The settings that make a run this cell, as on the command line."""
        chosen = cell_overrides(figure, self.size, self.depth, self.nonlinear, self.width)
        return [*chosen, f"seeds=[{','.join(map(str, self.seeds))}]"]


class AbstractChain(abc.ABC):
    """The cells of one model in a figure, in order."""

    figure: str
    model: str

    @abc.abstractmethod
    def next(self, groups: Sequence[Group]) -> Job | None:
        """The next job, given the runs of the model; None when all is done."""


@final
@dataclass(frozen=True)
class Curves(AbstractChain):
    """Cells that do not depend on each other: every seed of each is run."""

    figure: str
    model: str
    cells: Sequence[Job]

    def next(self, groups: Sequence[Group]) -> Job | None:
        for cell in self.cells:
            here = [g for g in groups if g.cell.task == TASKS[cell.size] and cell.is_of(g.cell)]
            ended = [s for group in here for s in group.seeds if s.state != "unfinished"]
            done = {seed.seed for seed in ended}
            if missing := tuple(seed for seed in cell.seeds if seed not in done):
                return replace(cell, seeds=missing)
        return None


@final
@dataclass(frozen=True)
class Depths(AbstractChain):
    """The paper's procedure for Figure 2, of each seed for itself.

    Through the lengths in order: the fewest blocks first, until the seed passes the threshold. A
    depth that fails is not tried at longer lengths. Seeds that are at the same depth share a run.
    """

    figure: str
    model: str
    lengths: Sequence[int]
    deepest: int
    threshold: float
    seeds: Sequence[int]

    def next(self, groups: Sequence[Group]) -> Job | None:
        limits = (self.deepest, self.threshold)
        for length in self.lengths:
            depths = minimum_depths(groups, length, *limits, seeds=self.seeds, lengths=self.lengths)
            if unknown := [depth for depth in depths if not depth.known]:
                least = int(min(depth.least for depth in unknown))
                seeds = tuple(depth.seed for depth in unknown if depth.least == least)
                return Job(self.model, length, least, seeds)
        return None


def chains(
    figure: str, published: Path, lengths: Sequence[int] | None, seeds: Sequence[int]
) -> Mapping[str, AbstractChain]:
    """The chain of each model of "figure1", "figure2" or "width".

    Arguments:
        published: the folder of the published tables, which say what there is to reproduce.
        lengths: of Figure 2; the published ones if None.
        seeds: of each cell.

    Raises:
        ValueError: for a damaged table, or a length that was not published.
    """
    if figure == "figure2":
        return _procedures(published / "figure2.csv", lengths, tuple(seeds))
    cells = _features_by_width(seeds) if figure == "width" else _cells_of_figure1(published, seeds)
    models = dict.fromkeys(cell.model for cell in cells)
    return {m: Curves(figure, m, [cell for cell in cells if cell.model == m]) for m in models}


def _cells_of_figure1(published: Path, seeds: Sequence[int]) -> list[Job]:
    """The published cells, and diagonal features, of which the paper argues without running any."""
    cells = [
        Job(row.model, row.dimension, row.depth, tuple(seeds), row.nonlinear)
        for row in read_figure1(published / "figure1.csv")
    ]
    return cells + [Job("diagonal_cde", dimension, 1, tuple(seeds)) for dimension in TASKS]


def _features_by_width(seeds: Sequence[int]) -> list[Job]:
    return [Job("linear_cde", d, 1, tuple(seeds), width=w) for d in TASKS for w in WIDTHS]


def _procedures(
    table: Path, lengths: Sequence[int] | None, seeds: Sequence[int]
) -> dict[str, AbstractChain]:
    rows = read_figure2(table)
    known = sorted({row.length for row in rows})
    for length in lengths or ():
        if length not in known:
            valid = ", ".join(map(str, known))
            raise ValueError(f"--lengths: got {length}; expected some of {valid}")
    found: dict[str, AbstractChain] = {}
    for model in dict.fromkeys(row.model for row in rows):
        ours = [row for row in rows if row.model == model]
        deepest, threshold = max(row.deepest for row in ours), max(row.threshold for row in ours)
        wanted = sorted(set(lengths or known))
        found[model] = Depths("figure2", model, wanted, deepest, threshold, seeds)
    return found
