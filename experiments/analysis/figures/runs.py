"""The last validation metric of any runs against length or dimension, a panel for each task."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from experiments.analysis.figures.style import FONTS, error_bars, marker_of, model_style
from experiments.results.published import Spread
from experiments.results.records import Group, better

DASHES = ["-", "--", "-.", ":"]  # by depth: 1, 2, …


def draw_runs(groups: Sequence[Group]) -> Figure:
    """The mean and the range of the seeds, a line for each model, depth, kind and width."""
    tasks = list(dict.fromkeys(group.cell.task for group in groups))
    with plt.rc_context(FONTS):
        figure, axes = plt.subplots(
            1, len(tasks), figsize=(3.5 * len(tasks), 4), layout="constrained", squeeze=False
        )
        for panel, task in zip(axes[0], tasks, strict=True):
            _draw_task(panel, [group for group in groups if group.cell.task == task])
    return figure


def _draw_task(axes: Axes, groups: Sequence[Group]) -> None:
    lines: dict[str, list[Group]] = {}
    for group in groups:
        lines.setdefault(_name(group, groups), []).append(group)
    for name, line in lines.items():
        _draw_line(axes, name, line)
    sizes, metric = sorted({g.cell.size for g in groups}), groups[0].runs[0].metric
    rises = better(metric) > 0
    axes.set(
        title=groups[0].cell.task,
        xlabel="length" if rises else "dimension",
        ylabel=f"validation {metric.replace('rmse', 'RMSE')}",
        yscale="linear" if rises else "log",
    )
    axes.xaxis.set_major_locator(
        MaxNLocator(6, integer=True) if len(sizes) > 1 else FixedLocator(sizes)
    )
    columns = 1 + (len(lines) > 5)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, frameon=False)


def _name(group: Group, among: Sequence[Group]) -> str:
    """Model, depth and kind; the width too if it takes that to tell."""
    cell = group.cell
    name = f"{model_style(cell.model)[0]}, depth {cell.depth}{', nonlinear' * cell.nonlinear}"
    widths = {g.cell.width for g in among if g.cell.model == cell.model}
    return name if len(widths) == 1 else f"{name}, width {cell.width}"


def _draw_line(axes: Axes, name: str, groups: Sequence[Group]) -> None:
    cell, spreads = groups[0].cell, {}
    for group in groups:
        if values := [s.final for s in group.seeds if s.final is not None]:
            spreads[group.cell.size] = Spread.of(values)
    error_bars(
        axes,
        list(spreads),
        list(spreads.values()),
        color=model_style(cell.model)[1],
        linestyle=DASHES[(cell.depth - 1) % len(DASHES)],
        marker=marker_of(cell.depth, cell.nonlinear),
        elinewidth=0.7,
        capsize=2,
        label=name,
    )
