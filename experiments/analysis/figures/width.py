"""Random features: validation RMSE on area and volume against their number, with the slope."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.analysis.figures.style import FONTS, error_bars
from experiments.results.published import Spread
from experiments.results.records import Group

PANELS = {"area": ("Area (2D)", "#D55E00", "o"), "volume": ("Volume (3D)", "#0072B2", "s")}


@dataclass(frozen=True)
class PowerLaw:
    """RMSE ≈ scale · width^slope, by least squares of the logarithms."""

    slope: float
    scale: float

    @staticmethod
    def fit(widths: Sequence[float], values: Sequence[float]) -> "PowerLaw":
        """Of two points or more, all positive."""
        slope, intercept = np.polyfit(np.log(widths), np.log(values), 1)
        return PowerLaw(float(slope), float(np.exp(intercept)))

    def at(self, widths: Sequence[float]) -> list[float]:
        """The law's values."""
        return [self.scale * width**self.slope for width in widths]


def draw_width(groups: Sequence[Group]) -> Figure:
    """The mean and the range of the seeds at each width, and a power law through the means.

    Dashed is predicting zero.

    Raises:
        ValueError: if there are not two widths of a task.
    """
    with plt.rc_context(FONTS):
        figure, axes = plt.subplots(figsize=(3.5, 2.8), layout="constrained")
        for task, (title, colour, marker) in PANELS.items():
            here = [g for g in groups if (g.cell.task, g.cell.model) == (task, "linear_cde")]
            points = {
                group.cell.width: Spread.of(values)
                for group in sorted(here, key=lambda group: group.cell.width)
                if (values := [seed.final for seed in group.seeds if seed.final is not None])
            }
            if len(points) < 2:
                continue
            widths = list(points)
            law = PowerLaw.fit(widths, [spread.mean for spread in points.values()])
            axes.plot(widths, law.at(widths), color=colour, linestyle=":", linewidth=0.8)
            error_bars(
                axes,
                widths,
                list(points.values()),
                color=colour,
                marker=marker,
                capsize=2,
                label=f"{title}: slope {law.slope:.2f}",
            )
            zeros = [r.baselines["rmse_zero"] for g in here for r in g.runs if r.baselines]
            for zero in zeros[:1]:
                axes.axhline(zero, color=colour, linestyle="--", linewidth=0.8, alpha=0.6)
        if not axes.lines:
            raise ValueError("width: expected runs of the linear CDE with two widths or more")
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="width of the random linear CDE",
            ylabel="validation RMSE",
        )
        widths = sorted({group.cell.width for group in groups})
        axes.set_xticks(widths, list(map(str, widths)))
        axes.minorticks_off()
        axes.legend(frameon=False)
    return figure
