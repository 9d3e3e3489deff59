"""Which cell comes next, of those that are missing.

A chain goes through the cells of one model in a figure. Asked with the finished runs, it tells the
next job, so that what was run anywhere, by a sweep on a cluster as well, is never run again.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from comparing.depths import minimum_depths

from experiments.published import read_figure1, read_figure2
from experiments.records import Group

TASKS = {2: "area", 3: "volume"}  # by dimension
# What the paper argues of but did not run: (depth, nonlinear).
DIAGONAL = ("diagonal_cde", [(1, False)])
WIDTHS = (16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Job:
    """Seeds to run of one cell.

    Arguments:
        model: its name in `configs/experiment/<figure>`.
        size: the length or the dimension.
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

    def is_of(self, group: Group) -> bool:
        """Whether a group's runs are of this cell."""
        cell = group.cell
        ours = (self.model, self.size, self.depth, self.nonlinear)
        there = (cell.model, cell.size, cell.depth, cell.nonlinear)
        return ours == there and self.width in (None, cell.width)

    def overrides(self, figure: str) -> list[str]:
        """The settings that make it this cell, on the command line of a run."""
        chosen = [f"model.depth={self.depth}", f"seeds=[{','.join(map(str, self.seeds))}]"]
        if figure == "figure2":
            return [f"task.length={self.size}", *chosen]
        chosen += ["model.activation=gelu"] if self.nonlinear else []
        chosen += [] if self.width is None else [f"model.d_model={self.width}", "published=null"]
        return [f"task={TASKS[self.size]}", *chosen]


class AbstractChain(abc.ABC):
    """The cells of one model in a figure, in order."""

    figure: str
    model: str

    @abc.abstractmethod
    def next(self, groups: Sequence[Group]) -> Job | None:
        """The next job, given the finished runs of the model; None when all is done."""


@final
@dataclass(frozen=True)
class Curves(AbstractChain):
    """Cells that do not depend on each other: every seed of each is run."""

    figure: str
    model: str
    cells: Sequence[Job]

    def next(self, groups: Sequence[Group]) -> Job | None:
        for cell in self.cells:
            done = {s.seed for group in groups if cell.is_of(group) for s in group.seeds}
            if missing := tuple(seed for seed in cell.seeds if seed not in done):
                return Job(cell.model, cell.size, cell.depth, missing, cell.nonlinear, cell.width)
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
        for length in self.lengths:
            found = minimum_depths(groups, length, self.deepest, self.threshold, seeds=self.seeds)
            if open_ := [depth for depth in found if not depth.known]:
                least = int(min(depth.least for depth in open_))
                at_it = tuple(depth.seed for depth in open_ if depth.least == least)
                return Job(self.model, length, least, at_it)
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
    if figure == "width":
        cells = [Job("linear_cde", d, 1, tuple(seeds), width=w) for d in TASKS for w in WIDTHS]
        return {"linear_cde": Curves(figure, "linear_cde", cells)}
    if figure == "figure1":
        kinds: dict[str, list[tuple[int, int, bool]]] = {}
        for row in read_figure1(published / "figure1.csv"):
            kinds.setdefault(row.model, []).append((row.dimension, row.depth, row.nonlinear))
        model, shapes = DIAGONAL
        kinds[model] = [(dimension, *shape) for dimension in TASKS for shape in shapes]
        return {
            model: Curves(figure, model, [Job(model, d, n, tuple(seeds), nl) for d, n, nl in cells])
            for model, cells in kinds.items()
        }
    rows = read_figure2(published / "figure2.csv")
    known = sorted({row.length for row in rows})
    wrong = [length for length in lengths or () if length not in known]
    if wrong:
        raise ValueError(
            f"--lengths: got {wrong[0]}; expected some of {', '.join(map(str, known))}"
        )
    return {
        row.model: Depths(
            figure, row.model, sorted(lengths or known), row.deepest, row.threshold, tuple(seeds)
        )
        for row in rows
    }
