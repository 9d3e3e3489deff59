"""Figure 1: validation RMSE on area and volume against training steps."""

import statistics

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.analysis.figures.results import Results
from experiments.analysis.figures.style import (
    COLUMN,
    FAINT,
    FONTS,
    error_bars,
    in_order,
    label_of,
    line_of,
    marker_of,
    model_style,
    sample,
)
from experiments.results.published import PublishedCurve, Spread
from experiments.results.records import Group

PANELS = {2: "Area (2D)", 3: "Volume (3D)"}  # by dimension


def draw_figure1(results: Results) -> Figure:
    """The mean and the range of the seeds at each step, over what was published.

    A mean is over the seeds that have come to its step. Random features are a dashed line, as is
    predicting zero. Published are the steps that the table has.
    """
    found = {c.dimension for c in results.curves} | {g.cell.size for g in results.groups}
    dimensions = [dimension for dimension in PANELS if dimension in found]
    with plt.rc_context(FONTS):
        figure, axes = plt.subplots(
            len(dimensions),
            figsize=(COLUMN, 1.1 + 2.4 * len(dimensions)),
            layout="constrained",
            squeeze=False,
        )
        for panel, dimension in zip(axes[:, 0], dimensions, strict=True):
            curves = [c for c in results.curves if c.dimension == dimension]
            groups = [g for g in results.groups if g.cell.size == dimension]
            for curve in curves:
                _draw_published(panel, curve)
            for group in groups:
                _draw_ours(panel, group)
            zeros = [c.rmse_zero for c in curves]
            zeros += [r.baselines["rmse_zero"] for g in groups for r in g.runs if r.baselines]
            for zero in zeros[:1]:
                panel.axhline(zero, color="black", linestyle="--", linewidth=1, label="zero")
            panel.set(title=PANELS[dimension], xlabel="training steps", xscale="log", yscale="log")
            panel.set_ylabel("validation RMSE")
        figure.legend(handles=_legend(results), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_ours(axes: Axes, group: Group) -> None:
    """A line with a band, or a dashed line across for features without training."""
    cell, (_, colour) = group.cell, model_style(group.cell.model)
    label = label_of("ours", cell.model, cell.depth, cell.nonlinear)
    if _is_random(group):
        values = [seed.final for seed in group.seeds if seed.final is not None]
        if values:
            _draw_across(axes, Spread.of(values), colour, 1.0, label)
        return
    at: dict[int, list[float]] = {}
    for seed in group.seeds:
        for step, value in seed.curve:
            if step > 0:  # the axis is logarithmic
                at.setdefault(step, []).append(value)
    steps = sorted(at)
    marker = marker_of(cell.depth, cell.nonlinear)
    means = [statistics.fmean(at[step]) for step in steps]
    line = {"linestyle": line_of(cell.model), "marker": marker, "markevery": 0.1}
    axes.plot(steps, means, color=colour, label=label, **line)
    low, high = [min(at[step]) for step in steps], [max(at[step]) for step in steps]
    axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0, label=label)


def _draw_published(axes: Axes, curve: PublishedCurve) -> None:
    """The mean at each step of the table, with the range as a bar."""
    _, colour = model_style(curve.model)
    label = label_of("published", curve.model, curve.depth, curve.nonlinear)
    if None in curve.at:
        _draw_across(axes, curve.at[None], colour, FAINT, label)
        return
    steps = sorted(step for step in curve.at if step is not None)
    error_bars(
        axes,
        steps,
        [curve.at[step] for step in steps],
        color=colour,
        alpha=FAINT,
        marker=marker_of(curve.depth, curve.nonlinear),
        markerfacecolor="none",
        linestyle=line_of(curve.model),
        linewidth=0.8,
        label=label,
    )


def _draw_across(axes: Axes, spread: Spread, colour: str, alpha: float, label: str) -> None:
    axes.axhline(spread.mean, color=colour, linestyle="--", alpha=alpha, label=label)
    if spread.low is not None and spread.high is not None:
        axes.axhspan(
            spread.low, spread.high, color=colour, alpha=0.3 * alpha, linewidth=0, label=label
        )


def _legend(results: Results) -> list[Line2D]:
    """What colours, markers and lines mean."""
    drawn = {(c.model, c.depth, c.nonlinear, None in c.at) for c in results.curves}
    for group in results.groups:
        cell = group.cell
        drawn.add((cell.model, cell.depth, cell.nonlinear, _is_random(group)))
    handles = []
    for model in in_order(model for model, _, _, random in drawn if not random):
        name, colour = model_style(model)
        handles.append(sample(name, color=colour, linewidth=2, linestyle=line_of(model)))
    for depth, nonlinear in sorted({(d, n) for _, d, n, random in drawn if not random}):
        kind = f"depth {depth}, {'nonlinear' if nonlinear else 'linear'}"
        handles.append(sample(kind, marker=marker_of(depth, nonlinear), linestyle="none"))
    if results.groups:
        handles.append(sample("ours: mean and range of the seeds"))
    if results.curves:
        handles.append(sample("published: mean and range of 5 runs", alpha=FAINT))
    for model in in_order(model for model, _, _, random in drawn if random):
        name, colour = model_style(model)
        handles.append(sample(f"{name}, random", color=colour, linestyle="--"))
    handles.append(sample("predicting zero", color="black", linestyle="--"))
    return handles


def _is_random(group: Group) -> bool:
    """Whether a group's features are random, and only their readout is fitted."""
    return group.runs[0].settings["procedure"] == "readout"
