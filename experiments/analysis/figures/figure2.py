"""Figure 2: the fewest blocks that pass on a word problem against length, a panel a model."""

import statistics
from collections.abc import Sequence, Set
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.analysis.depths import deepest_tried, minimum_depths
from experiments.analysis.figures.results import Results
from experiments.analysis.figures.style import (
    COLUMN,
    FAINT,
    FONTS,
    error_bars,
    in_order,
    label_of,
    model_style,
    sample,
)
from experiments.results.published import PublishedDepth, Spread
from experiments.results.records import Group


def draw_figure2(results: Results) -> Figure:
    """The median of the seeds whose minimum depth is known, with their range, and the published.

    "none" stands above the deepest that was tried.
    """
    models = in_order([d.model for d in results.depths] + [g.cell.model for g in results.groups])
    ours = {m: [g for g in results.groups if g.cell.model == m] for m in models}
    deepest = [d.deepest for d in results.depths]
    none = max(deepest + [deepest_tried(groups) for groups in ours.values() if groups]) + 1
    columns = min(3, len(models))
    rows, kinds = -(-len(models) // columns), set[bool]()
    with plt.rc_context(FONTS):
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(COLUMN, 0.2 + 1.5 * rows),
            layout="constrained",
            sharey=True,
            squeeze=False,
        )
        for panel, model in zip(axes.flat, models, strict=False):
            published = [d for d in results.depths if d.model == model]
            if published:
                _draw_published(panel, published, none)
            if ours[model]:
                kinds |= _draw_ours(panel, ours[model], published, none)
            panel.set_title(model_style(model)[0])
            panel.margins(x=0.08)
            panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ticks = list(range(1, none + 1))
        axes[0, 0].set_yticks(ticks, [*map(str, ticks[:-1]), "none"])
        axes[0, 0].set_ylim(0.6, none + 0.4)
        figure.supylabel(f"fewest blocks that pass on {_task(results)}", fontsize=8)
        figure.supxlabel("length", fontsize=8)
        for spare in axes.flat[len(models) :]:
            spare.remove()
        where: Any = {"loc": "outside lower center", "ncols": 2}
        if rows * columns > len(models):  # in the place of the last panel
            where = {"loc": "center", "bbox_to_anchor": (0.85, 0.3)}
        figure.legend(
            handles=_legend(kinds, bool(results.depths)), frameon=False, handlelength=1.5, **where
        )
    return figure


def _legend(kinds: Set[bool], published: bool) -> list[Line2D]:
    """What the markers mean; `kinds` are as `_draw_ours` returns them."""
    several = sample("ours: median\nand range of\nthe seeds", marker="o")
    one = sample("ours: one seed", marker=".")
    theirs = sample(
        "published:\none run", marker="o", markersize=6, markerfacecolor="none", alpha=FAINT
    )
    return [several] * (True in kinds) + [one] * (False in kinds) + [theirs] * published


def _task(results: Results) -> str:
    """Such as "A5"; every run is of the same."""
    return results.groups[0].cell.task if results.groups else "A5"


def _draw_published(axes: Axes, depths: Sequence[PublishedDepth], none: int) -> None:
    axes.plot(
        [d.length for d in depths],
        [min(d.blocks, none) for d in depths],
        color=model_style(depths[0].model)[1],
        alpha=FAINT,
        marker="o",
        markersize=6,
        markerfacecolor="none",
        label=label_of("published", depths[0].model),
    )


def _draw_ours(
    axes: Axes, groups: Sequence[Group], published: Sequence[PublishedDepth], none: int
) -> set[bool]:
    """Judged by the published threshold and steps if there are any, else by the runs' own.

    Returns:
        Whether points are of several seeds, True, or of one, False.
    """
    rows = {d.length: d for d in published}
    lengths = sorted({*rows, *(g.cell.size for g in groups)})
    deepest, model = deepest_tried(groups), groups[0].cell.model
    x, spreads, several = [], [], []
    for length in lengths:
        if row := rows.get(length):
            limits = (row.deepest, row.threshold, row.last_step)
            found = minimum_depths(groups, length, *limits, lengths=sorted(rows))
        else:
            found = minimum_depths(groups, length, deepest)
        known = [float(min(depth.most, none)) for depth in found if depth.known]
        if known:
            x.append(length)
            spreads.append(Spread.of(known, statistics.median))
            several.append(len(known) > 1)
    if x:
        error_bars(
            axes,
            x,
            spreads,
            color=model_style(model)[1],
            marker=".",
            capsize=2,
            label=label_of("ours", model),
        )
        axes.plot(
            [length for length, many in zip(x, several, strict=True) if many],
            [spread.mean for spread, many in zip(spreads, several, strict=True) if many],
            color=model_style(model)[1],
            marker="o",
            linestyle="none",
            label=label_of("several seeds", model),
        )
    return set(several)
