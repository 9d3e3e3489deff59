"""Figure 2: the fewest blocks that pass on a word problem against length, a panel a model."""

import statistics
from collections.abc import Sequence

import matplotlib.pyplot as plt
from comparing.depths import deepest_tried, minimum_depths
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from drawing.results import Results
from drawing.style import FAINT, FONTS, error_bars, in_order, label_of, model_style, sample
from experiments.published import PublishedDepth, Spread
from experiments.records import Group


def draw_figure2(results: Results) -> Figure:
    """The median of the seeds whose minimum depth is known, with their range, and the published.

    "none" stands above the deepest that was tried.
    """
    models = in_order([d.model for d in results.depths] + [g.cell.model for g in results.groups])
    ours = {m: [g for g in results.groups if g.cell.model == m] for m in models}
    deepest = [d.deepest for d in results.depths]
    none = max(deepest + [deepest_tried(groups) for groups in ours.values() if groups]) + 1
    with plt.rc_context(FONTS):
        figure, axes = plt.subplots(
            1, len(models), figsize=(7, 2.2), layout="constrained", sharey=True, squeeze=False
        )
        for panel, model in zip(axes[0], models, strict=True):
            published = [d for d in results.depths if d.model == model]
            if published:
                _draw_published(panel, published, none)
            if ours[model]:
                _draw_ours(panel, ours[model], published, none)
            panel.set(title=model_style(model)[0], xlabel="length")
            panel.margins(x=0.08)
        ticks = list(range(1, none + 1))
        axes[0, 0].set_yticks(ticks, [*map(str, ticks[:-1]), "none"])
        label = f"fewest blocks that pass\non {_task(results)}"
        axes[0, 0].set(ylabel=label, ylim=(0.6, none + 0.4))
        for panel in axes[0]:
            panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        handles = [sample("ours: median and range of the seeds", marker="o")]
        if results.depths:
            hollow = sample("published: one run", marker="o", markerfacecolor="none", alpha=FAINT)
            handles.append(hollow)
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


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
) -> None:
    """Judged by the published threshold and steps if there are any, else by the runs' own."""
    rows = {d.length: d for d in published}
    deepest, model = deepest_tried(groups), groups[0].cell.model
    x, spreads = [], []
    for length in sorted({*rows, *(g.cell.size for g in groups)}):
        if row := rows.get(length):
            found = minimum_depths(groups, length, row.deepest, row.threshold, row.last_step)
        else:
            found = minimum_depths(groups, length, deepest)
        known = [float(min(depth.most, none)) for depth in found if depth.known]
        if known:
            x.append(length)
            spreads.append(Spread.of(known, statistics.median))
    if x:
        error_bars(
            axes,
            x,
            spreads,
            color=model_style(model)[1],
            marker="o",
            capsize=2,
            label=label_of("ours", model),
        )
