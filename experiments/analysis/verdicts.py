"""Verdicts on every cell of the paper.

- Figure 1, a range over five runs: `agrees` if the mean of our seeds lies in the published range,
  widened on both sides by its own width. Training that stopped earlier is compared at the last
  published step that all our seeds reached, and the note says so. A seed that failed has no RMSE:
  the others are shown, and the verdict is `differs`.
- Figure 2, one run: `agrees` if the published minimum depth is between the least and the greatest
  of our seeds' minimum depths. A seed's minimum depth is the fewest blocks with which it passes the
  threshold; "none", of a seed that fails at every depth, is greater than any number. A depth that
  fails at a length is not tried at longer ones, as in the paper, and counts as failed there. So one
  seed must have the published depth itself, and several must not all be on one side of it. Steps
  to pass are shown, not judged.
- `not run`: nothing was run, or not what would decide: where a depth, or a shorter length, was left
  out or stopped before the last published evaluation, only what holds either way is a verdict.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.analysis.depths import Depth, minimum_depths, outcome
from experiments.analysis.groups import Prescribed, middle_and_range, paper_groups, settings_note
from experiments.results.published import (
    PublishedCurve,
    PublishedDepth,
    Spread,
    read_figure1,
    read_figure2,
)
from experiments.results.records import Group, SeedResult


@dataclass(frozen=True)
class CurveRow:
    """A cell of Figure 1 and ours, at a step that both have."""

    id: str
    step: int | None
    published: float
    published_min: float | None
    published_max: float | None
    ours: float | None
    ours_min: float | None
    ours_max: float | None
    seeds: int
    verdict: str
    note: str


@dataclass(frozen=True)
class DepthRow:
    """A cell of Figure 2 and ours; infinite blocks mean that none pass."""

    id: str
    published: float
    published_steps: int | None
    ours: float | None
    ours_min: float | None
    ours_max: float | None
    median_steps: float | None
    min_steps: float | None
    max_steps: float | None
    seeds: int
    passed: str
    verdict: str
    note: str


@dataclass(frozen=True)
class Comparison:
    """Every cell of the paper, and the runs that are of none."""

    figure1: list[CurveRow]
    figure2: list[DepthRow]
    unpublished: list[str]


def compare_published(results: Path, prescribed: Prescribed | None = None) -> Comparison:
    """The paper's cells beside the runs of a folder of results.

    Raises:
        ValueError: for damaged files, and as `paper_groups`.
    """
    curves = read_figure1(results / "published" / "figure1.csv")
    depths = read_figure2(results / "published" / "figure2.csv")
    ours1, ours2 = (paper_groups(results, figure, prescribed) for figure in ("figure1", "figure2"))
    lengths = sorted({row.length for row in depths})
    known = [g for g in ours1 if any(_is_of_curve(g, row) for row in curves)]
    known += [g for g in ours2 if any(_is_of_depth(g, row) for row in depths)]
    return Comparison(
        [
            compare_curve(row, next((g for g in ours1 if _is_of_curve(g, row)), None))
            for row in curves
        ],
        [
            compare_depth(row, [g for g in ours2 if g.cell.model == row.model], lengths)
            for row in depths
        ],
        [str(group.cell) for group in [*ours1, *ours2] if group not in known],
    )


def _is_of_curve(group: Group, row: PublishedCurve) -> bool:
    cell = group.cell
    ours = (cell.model, cell.size, cell.depth, cell.nonlinear)
    return ours == (row.model, row.dimension, row.depth, row.nonlinear)


def _is_of_depth(group: Group, row: PublishedDepth) -> bool:
    cell = group.cell
    return (cell.model, cell.size) == (row.model, row.length) and cell.depth <= row.deepest


def compare_curve(row: PublishedCurve, group: Group | None) -> CurveRow:
    """A cell of Figure 1 with its verdict; the module's text has the rule."""
    seeds = [] if group is None else group.seeds
    last = max((step for step in row.at if step is not None), default=None)
    failed = [s for s in seeds if s.state == "failed"]
    whole = [s for s in seeds if s.state != "failed"]
    step, values = _common_step(row, whole)
    if not values:
        step = last
    published = row.at[step]
    mean, low, high = middle_and_range(values)
    notes = [] if group is None else [settings_note(group)]
    notes += [f"seed {s.seed} failed after {s.steps:,} steps" for s in failed]
    verdict = "not run"
    if failed:
        verdict = "differs"
    elif mean is not None:
        side = outside(mean, published)
        verdict = "differs" if side else "agrees"
        notes.append(f"{side} the published range" if side else "")
    if step != last:
        notes.append(f"compared at step {step:,}: ours stop before the last published, {last:,}")
    if len(values) < len(whole):
        notes.append(f"{len(whole) - len(values)} seed(s) not yet at a published step")
    if unfinished := sum(s.state == "unfinished" for s in seeds):
        notes.append(f"{unfinished} of {len(seeds)} seed(s) unfinished")
    return CurveRow(
        row.id,
        step,
        published=published.mean,
        published_min=published.low,
        published_max=published.high,
        ours=mean,
        ours_min=low,
        ours_max=high,
        seeds=len(values),
        verdict=verdict,
        note="; ".join(filter(None, notes)),
    )


def _common_step(
    row: PublishedCurve, seeds: Sequence[SeedResult]
) -> tuple[int | None, list[float]]:
    """The last published step that every seed evaluated, and the values there.

    Seeds that have not come to any are left out. Without training it is None, the end.
    """
    if None in row.at:
        return None, [s.final for s in seeds if s.final is not None]
    at = [{step: v for step, v in s.curve if step in row.at} for s in seeds]
    at = [values for values in at if values]
    common = set.intersection(*map(set, at)) if at else set()
    if not common:
        return None, []
    step = max(common)
    return step, [values[step] for values in at]


def outside(mean: float, published: Spread) -> str:
    """Where a mean is, "below" or "above" the range widened by its width; nothing if inside."""
    low = published.mean if published.low is None else published.low
    high = published.mean if published.high is None else published.high
    width, slack = high - low, 1e-9 * published.mean  # for rounding at the edges
    if mean < low - width - slack:
        return "below"
    return "" if mean <= high + width + slack else "above"


def compare_depth(row: PublishedDepth, groups: Sequence[Group], lengths: Sequence[int]) -> DepthRow:
    """A cell of Figure 2, and all groups of its model, with its verdict.

    Arguments:
        lengths: of the procedure.
    """
    limits = (row.length, row.deepest, row.threshold, row.last_step)
    depths = minimum_depths(groups, *limits, lengths=lengths)
    here = [group for group in groups if group.cell.size == row.length]
    verdict, reason = _judge(row.blocks, depths)
    notes = [*map(settings_note, here), reason]
    if not all(d.known for d in depths):
        notes.append(f"bounds: a cell not run, or stopped before step {row.last_step:,}")
    if depths and not here:
        notes.append("every depth failed at shorter lengths")
    known = bool(depths) and all(d.known and d.most < math.inf for d in depths)
    passed_at = [d.steps for d in depths if d.steps is not None]
    steps, least_steps, most_steps = middle_and_range(passed_at, statistics.median)
    return DepthRow(
        row.id,
        row.blocks,
        row.steps,
        ours=statistics.fmean(d.most for d in depths) if known else None,
        ours_min=min((d.least for d in depths), default=None),
        ours_max=max((d.most for d in depths), default=None),
        median_steps=steps,
        min_steps=least_steps,
        max_steps=most_steps,
        seeds=len(depths),
        passed=", ".join(_passing(group, row) for group in here),
        verdict=verdict,
        note="; ".join(filter(None, notes)),
    )


def _judge(blocks: float, depths: Sequence[Depth]) -> tuple[str, str]:
    """The verdict on a minimum depth, and why it is not that they agree."""
    if not depths:
        return "not run", ""
    least, most = [d.least for d in depths], [d.most for d in depths]
    if min(most) <= blocks <= max(least):
        return "agrees", ""
    if max(most) < blocks:
        return "differs", "fewer blocks"
    if min(least) > blocks:
        return "differs", "more blocks"
    return "not run", "undecided"


def _passing(group: Group, row: PublishedDepth) -> str:
    passed = [outcome(seed, row.threshold, row.last_step).passed for seed in group.seeds]
    return f"depth {group.cell.depth}: {passed.count(True)}/{len(passed)}"
