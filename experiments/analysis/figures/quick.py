"""The quick presets: validation accuracy on A5 at length 3 against seconds of training."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.analysis.figures.style import model_style
from experiments.results.files import SUMMARY, read_metrics

LINES = {"linear_cde": ("Linear CDE, dense", "o"), "mamba": ("Mamba, one block", "s")}


def draw_quick(results: Path) -> Figure:
    """From one run of each preset, in a folder of the model's name."""
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    device, baseline = "", float("nan")
    for model, (name, marker) in LINES.items():
        directory = results / model
        records = [r for r in read_metrics(directory) if (r.split, r.metric) == ("val", "accuracy")]
        summary = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
        baseline = summary["baselines"]["accuracy_two_positions"]
        device = summary["device"]["kind"]
        axes.plot(
            [r.seconds for r in records],
            [r.value for r in records],
            color=model_style(model)[1],
            marker=marker,
            markersize=4,
            label=f"{name} ({summary['parameters']:,} parameters)",
        )
    axes.axhline(baseline, color="0.5", linestyle="--", linewidth=1)
    axes.text(
        axes.get_xlim()[1], baseline, "two positions solved ", color="0.4", ha="right", va="bottom"
    )
    axes.set(
        xlabel=f"seconds, compilation included ({device})",
        ylabel="validation accuracy",
        title="A5, length 3, quick presets",
        ylim=(0, 1.02),
    )
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
