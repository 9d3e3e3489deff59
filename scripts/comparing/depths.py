"""Minimum depths, as in Figure 2: the fewest blocks with which a seed passes.

A depth that fails at a length is not tried at longer ones, as in the paper, and counts as failed
there.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from experiments.records import Group, SeedResult, first_past


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
    least: float
    most: float
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
) -> list[Depth]:
    """Each seed's minimum depth at a length.

    A seed that was not run at this length is left out, unless every depth failed at shorter ones.

    Arguments:
        groups: those of one model.
        length: of the sequences.
        deepest: the most blocks that count.
        threshold: to pass; that of each run if None.
        last_step: a seed that comes so far without passing fails; the end of its run if None.
    """
    seeds: dict[int, dict[tuple[int, int], Outcome]] = {}
    for group in groups:
        for run in group.runs:
            limit = run.threshold if threshold is None else threshold
            for seed in run.seeds:
                at = seeds.setdefault(seed.seed, {})
                at[group.cell.size, group.cell.depth] = outcome(seed, limit, last_step)
    depths = (_minimum_depth(seed, at, length, deepest) for seed, at in sorted(seeds.items()))
    return [depth for depth in depths if depth is not None]


def outcome(seed: SeedResult, threshold: float | None, last_step: int | None) -> Outcome:
    """What became of a seed; see `minimum_depths` for the arguments."""
    step = first_past(seed.curve, threshold, "accuracy")
    if step is not None:
        return Outcome(True, step)
    over = seed.state == "finished" if last_step is None else seed.steps >= last_step
    failed = seed.state == "failed" or (over and threshold is not None)
    return Outcome(False if failed else None)


def _minimum_depth(
    seed: int, at: Mapping[tuple[int, int], Outcome], length: int, deepest: int
) -> Depth | None:
    """From one seed's outcomes by (length, depth)."""
    passed = {depth: _passed(at, length, depth) for depth in range(1, deepest + 1)}
    least = min((depth for depth, p in passed.items() if p is not False), default=math.inf)
    most = min((depth for depth, p in passed.items() if p), default=math.inf)
    if least < math.inf and all(size != length for size, _ in at):
        return None
    return Depth(seed, least, most, None if most == math.inf else at[length, int(most)].steps)


def _passed(at: Mapping[tuple[int, int], Outcome], length: int, depth: int) -> bool | None:
    if (length, depth) in at:
        return at[length, depth].passed
    shorter = (o.passed for (size, d), o in at.items() if d == depth and size < length)
    return False if False in shorter else None
