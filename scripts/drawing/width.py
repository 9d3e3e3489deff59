"""Random features: validation RMSE on area and volume against their number, with the slope."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from drawing.style import FONTS, error_bars
from experiments.published import Spread
from experiments.records import Group

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
    """The mean and the range of the seeds at each width, and a power law through the means."""
    with plt.rc_context(FONTS):
        figure, axes = plt.subplots(figsize=(3.5, 2.8), layout="constrained")
        for task, (title, colour, marker) in PANELS.items():
            here = sorted((g for g in groups if g.cell.task == task), key=lambda g: g.cell.width)
            points = {
                g.cell.width: Spread.of([s.final for s in g.seeds if s.final is not None])
                for g in here
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
            zero = statistics.fmean(r.baselines["rmse_zero"] for g in here for r in g.runs)
            axes.axhline(zero, color=colour, linestyle="--", linewidth=0.8, alpha=0.6)
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
