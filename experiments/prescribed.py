"""The settings that an experiment prescribes, for runs to be held against."""

import functools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.analysis.settings import cell_overrides, changed_settings
from experiments.config import compose_plain
from experiments.places import CONFIGS
from experiments.results.cells import Cell, is_signature
from experiments.results.records import describe

_hydra = threading.Lock()  # it composes one configuration at a time


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


def changes_of(config: Mapping[str, Any]) -> list[str] | None:
    """What of a run's configuration is not as its experiment prescribes; None if it is of none."""
    run = describe(config, "")
    if run.preset not in ("figure1", "figure2", "small"):
        return None
    figure = "figure1" if is_signature(config["task"]) else "figure2"
    try:
        wanted = prescribed(figure, run.cell, small=run.preset == "small")
    except ValueError as error:
        return [str(error)]
    return changed_settings(run.settings, wanted)


@functools.cache
def _composed(overrides: tuple[str, ...]) -> Mapping[str, Any]:
    with _hydra:
        return describe(compose_plain(overrides), "").settings
