"""A small figure of a run: its validation metric against the step, one line a seed."""

from collections.abc import Sequence
from pathlib import Path

from experiments.results.files import Record


def draw(records: Sequence[Record], metric: str, title: str, path: Path) -> bool:
    """Draws a PNG file from what `read_metrics` gives.

    Matplotlib is imported here, at the end of a run, and only its Agg canvas is used.

    Arguments:

    - `records`: of any splits, metrics and seeds.
    - `metric`: the one to draw, of the split `"val"`.
    - `title`: of the figure.
    - `path`: the file to write.

    Returns: whether there was anything to draw.
    """
    lines: dict[int, list[Record]] = {}
    for record in records:
        if (record.split, record.metric) == ("val", metric):
            lines.setdefault(record.seed, []).append(record)
    if not lines:
        return False

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for seed, line in lines.items():
        steps, values = [r.step for r in line], [r.value for r in line]
        axes.plot(steps, values, marker=".", linewidth=1, label=f"seed {seed}")
    axes.set(xlabel="step", ylabel=f"validation {metric}")
    axes.set_title(title, fontsize="small")
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    return True
