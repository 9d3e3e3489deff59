"""What the figures share: colours, markers, fonts, error bars, and how a file is written."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.results.published import Spread

# Okabe and Ito's colours, which colour-blind readers can tell apart.
MODELS = {
    "linear_cde": ("Linear CDE", "#D55E00"),
    "diagonal_cde": ("Diagonal CDE", "#999999"),
    "rnn": ("RNN", "#E69F00"),
    "s4": ("S4", "#009E73"),
    "s5": ("S5", "#CC79A7"),
    "mamba": ("Mamba", "#0072B2"),
    "transformer": ("Transformer", "#56B4E9"),
}
DASHED = {"s5": (0, (3, 1.5))}  # where two models may lie upon one another
COLUMN = 3.5  # inches: the width of a column of text, at which figures are readable
MARKERS = "os^Dv<>P"  # by depth: 1, 2, …
NONLINEAR = "*"
FAINT = 0.35
FONTS: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def model_style(model: str) -> tuple[str, str]:
    """A model's name for readers, and its colour."""
    return MODELS.get(model, (model, "#000000"))


def line_of(model: str) -> Any:
    """The style of a model's lines."""
    return DASHED.get(model, "-")


def in_order(models: Iterable[str]) -> list[str]:
    """Each model once, as in the table above; others follow."""
    names = list(MODELS)
    return sorted(set(models), key=lambda m: (names.index(m) if m in names else len(names), m))


def marker_of(depth: int, nonlinear: bool = False) -> str:
    """The marker of a kind of model."""
    return NONLINEAR if nonlinear else MARKERS[(depth - 1) % len(MARKERS)]


def label_of(whose: str, model: str, depth: int | None = None, nonlinear: bool = False) -> str:
    """The label by which an artist is known; no legend shows it."""
    parts = [whose, model, *([f"depth{depth}"] if depth else []), *(["nonlinear"] * nonlinear)]
    return " ".join(parts)


def sample(label: str, color: str = "0.3", **style: Any) -> Line2D:
    """A line for a legend."""
    return Line2D([], [], color=color, label=label, **style)


def error_bars(axes: Axes, x: Sequence[float], spreads: Sequence[Spread], **style: Any) -> None:
    """A line through the means, with the ranges as bars; rounding may put a mean outside."""
    means = [s.mean for s in spreads]
    below = [0.0 if s.low is None else max(s.mean - s.low, 0.0) for s in spreads]
    above = [0.0 if s.high is None else max(s.high - s.mean, 0.0) for s in spreads]
    axes.errorbar(x, means, yerr=(below, above), **style)


def save(figure: Figure, path: Path, dpi: int = 200) -> None:
    """Writes a figure without the time or the version of anything: the same data, the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, dict[str, None]] = {
        ".png": {"Software": None},
        ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    }
    figure.savefig(path, dpi=dpi, metadata=metadata.get(path.suffix))
    plt.close(figure)
