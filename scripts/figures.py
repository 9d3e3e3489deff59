"""Draws figures from recorded results only.

    python scripts/figures.py quick            docs/quick_a5.png, from results/quick/

`results/quick/<model>/` holds the `metrics.jsonl`, `summary.json` and `config.yaml` of one run of
each quick preset: copy a run directory's files there to draw another.
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from experiments.loggers import read_metrics

ROOT = Path(__file__).resolve().parents[1]
# Okabe and Ito's colours, which colour-blind readers can tell apart.
STYLES = {
    "linear_cde": ("Linear CDE, dense", "#D55E00", "o"),
    "mamba": ("Mamba, one block", "#0072B2", "s"),
}


def quick(results: Path, output: Path) -> None:
    """Validation accuracy on A5 at length 3 against seconds of training, for the quick presets."""
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    device, baseline = "", float("nan")
    for model, (label, colour, marker) in STYLES.items():
        directory = results / model
        records = [r for r in read_metrics(directory) if (r.split, r.metric) == ("val", "accuracy")]
        summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        baseline = summary["baselines"]["accuracy_two_positions"]
        device = summary["device"]["kind"]
        axes.plot(
            [r.seconds for r in records],
            [r.value for r in records],
            color=colour,
            marker=marker,
            markersize=4,
            label=f"{label} ({summary['parameters']:,} parameters)",
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
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=160)


def main() -> int:
    """Parses the command line and draws."""
    parser = argparse.ArgumentParser(description="Draws figures from recorded results.")
    parser.add_argument("figure", choices=["quick"])
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "quick")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "quick_a5.png")
    options = parser.parse_args()
    quick(options.results, options.output)
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
