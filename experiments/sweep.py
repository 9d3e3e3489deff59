"""Sweeps: where each cell's results go, and what became of all of them.

The directory of a cell is named by its identity, so that the same sweep given again finds what it
has done: finished cells are passed over, failed and interrupted ones are tried again.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from experiments.config import run_name
from experiments.results.files import CHECKPOINTS, ERROR, SUMMARY, read_summary
from experiments.results.identity import SWEEP_CODE, code_version, identity_of
from experiments.rundir import is_running
from experiments.training import checkpoint
from experiments.usage import explain


def _cell(*, _root_: Any) -> str:
    """`${cell:}` is the directory of a run in a sweep: its name and its identity."""
    task = OmegaConf.masked_copy(_root_, [key for key in _root_ if key != "hydra"])
    plain: Any = OmegaConf.to_container(task, resolve=True)
    return f"{run_name(plain, _root_.hydra.runtime.choices)}-{identity_of(plain)}"


OmegaConf.register_new_resolver("cell", _cell, replace=True)


@dataclass(frozen=True)
class Outcome:
    """What a cell's directory tells.

    Attributes:
        state: "finished", "failed", "interrupted", "running" or "not run".
        note: the metric of a finished cell, the reason of a failed one, or how far it came.
        seconds: of training, if finished.
    """

    state: str
    note: str = ""
    seconds: float | None = None


def outcome(directory: Path) -> Outcome:
    """What became of the run in a directory."""
    if is_running(directory):
        return Outcome("running")
    if (directory / SUMMARY).exists():
        summary = read_summary(directory / SUMMARY)
        metric, seeds = summary["metric"], summary["seeds"].values()
        failed = [s for s, result in summary["seeds"].items() if _failed(result)]
        if failed:
            return Outcome("failed", f"seed {', '.join(failed)}: not finite")
        values = [result["final"][metric] for result in seeds]
        mean = sum(values) / len(values)
        spread = f" ({min(values):.4g} – {max(values):.4g})" if len(values) > 1 else ""
        return Outcome("finished", f"{metric} {mean:.4g}{spread}", summary["training_seconds"])
    if (directory / ERROR).exists():
        lines = (directory / ERROR).read_text(encoding="utf-8").splitlines()
        return Outcome("failed", lines[0] if lines else "")
    if checkpoint.list_files(directory / CHECKPOINTS):
        return Outcome("interrupted", "the same command goes on")
    return Outcome("not run")


def _failed(result: Any) -> bool:
    return result.get("failed_at") is not None


class SweepReport(Callback):
    """Says at the start of a sweep what there is to do, and at its end what became of each cell."""

    current: ClassVar["SweepReport | None"] = None

    def __init__(self) -> None:
        self.cells: list[tuple[str, Path | None, str]] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Lists the cells, with their directories or why they have none."""
        os.environ[SWEEP_CODE] = code_version()  # the jobs inherit it
        jobs = _jobs(config)
        common = set.intersection(*map(set, jobs))
        names = [" ".join(o for o in job if o not in common) or "the only cell" for job in jobs]
        self.cells = [(name, *_place(config, job)) for name, job in zip(names, jobs, strict=True)]
        SweepReport.current = self
        words = {"finished": "finished before, passed over", "failed": "failed before, tried again",
                 "interrupted": "interrupted before, resumed", "not run": "new",
                 "running": "running elsewhere, left alone"}  # fmt: skip
        counts = Counter(self._outcome(cell).state for cell in self.cells)
        found = [f"{n} {words[state]}" for state, n in counts.items()]
        print(f"Sweep:    {len(self.cells)} cells: {'; '.join(found)}", flush=True)

    def conclude(self) -> int:
        """Prints a table of the cells; returns 1 if any is not finished, else 0."""
        SweepReport.current = None
        os.environ.pop(SWEEP_CODE, None)
        rows = [(cell[0], self._outcome(cell)) for cell in self.cells]
        width = max((len(name) for name, _ in rows), default=0)
        print("\nThe sweep's cells:")
        for name, result in rows:
            took = "" if result.seconds is None else f"{result.seconds:.0f} s"
            print(f"  {name:{width}}  {result.state:11}  {took:>8}  {result.note}".rstrip())
        left = sum(result.state != "finished" for _, result in rows)
        print(f"{len(rows) - left} of {len(rows)} finished", flush=True)
        return 1 if left else 0

    @staticmethod
    def _outcome(cell: tuple[str, Path | None, str]) -> Outcome:
        _, path, why = cell
        return Outcome("failed", why) if path is None else outcome(path)


def _jobs(config: DictConfig) -> list[Sequence[str]]:
    """The overrides of each cell, as Hydra's own sweeper splits them."""
    loader = GlobalHydra.instance().config_loader()
    parameters = config.hydra.sweeper.get("params") or {}
    given = [f"{key}={value}" for key, value in parameters.items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(
        [*given, *config.hydra.overrides.task]
    )
    return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


def _place(config: DictConfig, overrides: Sequence[str]) -> tuple[Path | None, str]:
    """A cell's directory, or why it has none."""
    try:
        loader = GlobalHydra.instance().config_loader()
        job = loader.load_sweep_config(config, list(overrides))
        return Path(job.hydra.sweep.dir) / job.hydra.sweep.subdir, ""
    except Exception as error:  # whatever is wrong with it is said by the job itself
        return None, explain(error, overrides)
