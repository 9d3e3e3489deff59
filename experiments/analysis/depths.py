"""Minimum depths, as in Figure 2: the fewest blocks with which a seed passes.

A depth that fails at a length is not tried at longer ones, as in the paper, and counts as failed
there. What the paper's procedure does not come to tells nothing: so the depths are the same whether
every cell was run, or only those that it comes to.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from experiments.places import PUBLISHED
from experiments.results.published import read_figure2
from experiments.results.records import Group, SeedResult, first_past


@dataclass(frozen=True)
class Outcome:
    """Whether a seed passes, None if that cannot be told, and the steps to pass."""

    passed: bool | None
    steps: int | None = None


@dataclass(frozen=True)
class Depth:
    """The fewest blocks with which one seed passes at one length, between `least` and `most`.

    They are the same if it is known; infinite is "none". Else a depth between them was not run, or
    stopped too soon to tell. `steps` are those to pass with `most` blocks.
    """

    seed: int
    least: int | float
    most: int | float
    steps: int | None

    @property
    def known(self) -> bool:
        return self.least == self.most


def minimum_depths(
    groups: Iterable[Group],
    length: int,
    deepest: int,
    threshold: float | None = None,
    last_step: int | None = None,
    seeds: Iterable[int] | None = None,
    lengths: Iterable[int] | None = None,
) -> list[Depth]:
    """Each seed's minimum depth at a length.

    Arguments:
        groups: those of one model.
        length: of the sequences.
        deepest: the most blocks that count.
        threshold: to pass; that of each run if None.
        last_step: a seed that comes so far without passing fails, and what it passes later does
            not count; the end of its run if None, unless it stopped there for passing another
            threshold.
        seeds: to tell of; if None, those that were run at this length, or of which every depth
            failed at shorter ones.
        lengths: of the procedure, which goes through those below `length` first; if None, those
            at which a seed was run.

    Raises:
        ValueError: for a seed twice at a length and depth, in models of two widths.
    """
    found: dict[int, dict[tuple[int, int], Outcome]] = {}
    for group in groups:
        for run in group.runs:
            limit = run.threshold if threshold is None else threshold
            for seed in run.seeds:
                at, key = found.setdefault(seed.seed, {}), (group.cell.size, group.cell.depth)
                if key in at:
                    raise ValueError(f"{run.source}: seed {seed.seed} of {group.cell} twice")
                at[key] = outcome(seed, limit, last_step)
    asked = sorted(found if seeds is None else set(seeds))
    depths = []
    for number in asked:
        of_seed = found.get(number, {})
        every = {k for k, _ in of_seed} if lengths is None else set(lengths)
        shorter = sorted(k for k in every if k < length)
        depths.append(_minimum_depth(number, of_seed, shorter, length, deepest))
    if seeds is not None:
        return depths
    return [d for d in depths if d.least == math.inf or any(k == length for k, _ in found[d.seed])]


def deepest_tried(groups: Sequence[Group]) -> int:
    """The most blocks of the procedure, for one model: as published, else the most run."""
    model = groups[0].cell.model
    rows = [row for row in read_figure2(PUBLISHED / "figure2.csv") if row.model == model]
    return max([row.deepest for row in rows] or [group.cell.depth for group in groups])


def outcome(seed: SeedResult, threshold: float | None, last_step: int | None) -> Outcome:
    """What became of a seed; see `minimum_depths` for the arguments."""
    curve = [(k, value) for k, value in seed.curve if last_step is None or k <= last_step]
    step = first_past(curve, threshold, "accuracy")
    if step is not None:
        return Outcome(True, step)
    ended = seed.state == "finished" and seed.steps_to_threshold is None
    over = ended if last_step is None else seed.steps >= last_step
    failed = seed.state == "failed" or (over and threshold is not None)
    return Outcome(False if failed else None)


def _minimum_depth(
    seed: int,
    at: Mapping[tuple[int, int], Outcome],
    shorter: Sequence[int],
    length: int,
    deepest: int,
) -> Depth:
    """From one seed's outcomes by (length, depth)."""
    where = {1}  # the depths at which the procedure may have come to a length; deepest + 1 is none
    for size in [*shorter, length]:
        where = _advance(where, at, size, deepest)
    least, most = (math.inf if d > deepest else d for d in (min(where), max(where)))
    return Depth(seed, least, most, None if most == math.inf else at[length, int(most)].steps)


def _advance(
    where: Iterable[int], at: Mapping[tuple[int, int], Outcome], length: int, deepest: int
) -> set[int]:
    """Where the procedure may leave a length, by where it may come to it."""
    left, tried = set[int](), set(where)
    for depth in range(min(tried), deepest + 2):
        if depth not in tried:
            continue
        outcome_here = at.get((length, depth), Outcome(None))
        if depth > deepest or outcome_here.passed is not False:
            left.add(depth)
        if not outcome_here.passed:
            tried.add(depth + 1)
    return left
