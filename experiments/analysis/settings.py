"""The settings of runs: what makes a cell, and whether a run was made as it should be."""

from collections.abc import Mapping
from typing import Any

from experiments.results.records import RunResult

TASKS = {2: "area", 3: "volume"}
"""The tasks of Figure 1, by dimension."""

FREE = (
    *("train.steps", "train.stop_at", "train.evaluate_every", "train.evaluate_batch_size"),
    *("train.seed_axis", "readout.batch_size"),
)
"""What may differ among runs of a cell: how long they are, how often validated, and how many
examples and seeds a device computes at once."""


def cell_overrides(
    figure: str, size: int, depth: int, nonlinear: bool = False, width: int | None = None
) -> list[str]:
    """What makes an experiment of a figure one of its cells, as on the command line.

    Arguments:
        figure: "figure1", "figure2", or "width", whose experiment is Figure 1's.
        size: the length, or the dimension.
        width: if it is not the experiment's own.

    Raises:
        ValueError: for a dimension that Figure 1 has not.
    """
    if figure == "figure2":
        return [f"task.length={size}", f"model.depth={depth}"]
    if size not in TASKS:
        raise ValueError(f"task.dimension: got {size}; expected {' or '.join(map(str, TASKS))}")
    chosen = [f"task={TASKS[size]}"] + ([f"model.depth={depth}"] if depth > 1 else [])
    chosen += ["model.activation=gelu"] if nonlinear else []
    return chosen + ([] if width is None else [f"model.d_model={width}", "published=null"])


def check_settings(run: RunResult, wanted: Mapping[str, Any]) -> None:
    """Refuses a run that was not made with the settings `prescribed`, but for `FREE` ones.

    Raises:
        ValueError: naming the settings that are others.
    """
    if others := changed_settings(run.settings, wanted):
        more = f"; and {len(others) - 3} more" if len(others) > 3 else ""
        raise ValueError(f"{run.source}: {'; '.join(others[:3])}{more}")


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "nothing"


def changed_settings(settings: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What of a run's settings is other than `prescribed`, but for `FREE` ones."""
    return [
        f"{key}: got {_shown(settings, key)}; expected {_shown(wanted, key)}"
        for key in dict.fromkeys([*wanted, *settings])
        if key not in FREE and _shown(settings, key) != _shown(wanted, key)
    ]
