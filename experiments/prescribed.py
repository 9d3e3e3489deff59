"""The settings that an experiment prescribes, for runs to be held against."""

import functools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.config import compose_plain
from experiments.places import CONFIGS
from experiments.results.cells import Cell
from experiments.results.records import RunResult, describe

TASKS = {2: "area", 3: "volume"}
"""The tasks of Figure 1, by dimension."""

FREE = (
    *("train.steps", "train.stop_at", "train.evaluate_every", "train.evaluate_batch_size"),
    *("train.seed_axis", "readout.batch_size"),
)
"""What may differ among runs of a cell: how long they are, how often validated, and how many
examples and seeds a device computes at once."""

_hydra = threading.Lock()  # it composes one configuration at a time


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


def prescribed(
    figure: str, cell: Cell, *, small: bool = False, overrides: Sequence[str] = ()
) -> Mapping[str, Any]:
    """The settings of a figure's experiment for a cell, keys joined by dots.

    Arguments:
        small: whether it is the small study's.
        overrides: that the experiment was run with, besides those of the cell.

    Raises:
        ValueError: if there is no such experiment, or none with these overrides.
    """
    folder = "figure1" if figure == "width" else figure
    experiment = f"{'small/' if small else ''}{folder}/{cell.model}"
    if not Path(CONFIGS, "experiment", f"{experiment}.yaml").is_file():
        raise ValueError(f"expected a run of an experiment; there is no {experiment}")
    width = cell.width if figure == "width" else None
    chosen = cell_overrides(figure, cell.size, cell.depth, cell.nonlinear, width)
    if figure != "figure2":
        return _composed((f"+experiment={experiment}", *chosen, *overrides))
    # No other setting depends on the length (a test says so), and composing takes its time.
    others = [each for each in chosen if not each.startswith("task.length=")]
    found = _composed((f"+experiment={experiment}", *others, *overrides))
    return {**found, "task.length": cell.size}


def check_settings(run: RunResult, wanted: Mapping[str, Any]) -> None:
    """Refuses a run that was not made with the settings `prescribed`, but for `FREE` ones.

    Raises:
        ValueError: naming the settings that are others.
    """
    others = [
        f"{key}: got {_shown(run.settings, key)}; expected {_shown(wanted, key)}"
        for key in dict.fromkeys([*wanted, *run.settings])
        if key not in FREE and _shown(run.settings, key) != _shown(wanted, key)
    ]
    if others:
        more = f"; and {len(others) - 3} more" if len(others) > 3 else ""
        raise ValueError(f"{run.source}: {'; '.join(others[:3])}{more}")


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "nothing"


@functools.cache
def _composed(overrides: tuple[str, ...]) -> Mapping[str, Any]:
    with _hydra:
        return describe(compose_plain(overrides), "").settings
