"""Sweeps: where each cell's results go, and what became of all of them.

The directory of a cell is named by its identity, so that the same sweep given again finds what it
has done: finished cells are passed over, failed and interrupted ones are tried again.
"""

import copy
import functools
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.core_plugins import basic_sweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from experiments.config import owned, run_name
from experiments.lock import is_running
from experiments.places import CONFIGS
from experiments.results.files import CHECKPOINTS, CONFIG, ERROR, SUMMARY, read_summary, read_yaml
from experiments.results.identity import SWEEP_CODE, code_version, configuration_of, identity_of
from experiments.training import checkpoint
from experiments.usage import explain


def _cell(*, _root_: Any) -> str:
    """`${cell:}` is the directory of a run in a sweep: its name and its identity."""
    task = OmegaConf.masked_copy(_root_, [key for key in _root_ if key != "hydra"])
    plain = owned(OmegaConf.to_container(task, resolve=True))
    return f"{run_name(plain, _root_.hydra.runtime.choices)}-{identity_of(plain)}"


OmegaConf.register_new_resolver("cell", _cell, replace=True)


@dataclass(frozen=True)
class Outcome:
    """What a cell's directory tells.

    Attributes:
        state: "finished", "failed", "interrupted", "running", "not run" or, if it cannot be
            composed, "refused".
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


def _is_whole(directory: Path) -> bool:
    """Whether a finished cell is the one that its directory is named after, by what it says."""
    try:
        summary = read_summary(directory / SUMMARY)
        config = read_yaml(directory / CONFIG)
    except (OSError, ValueError):
        return False
    named = directory.name.rpartition("-")[2] == summary.get("identity")
    return named and configuration_of(config) == summary.get("configuration")


def _failed(result: Any) -> bool:
    return result.get("failed_at") is not None


class SweepReport(Callback):
    """Says at the start of a sweep what there is to do, and at its end what became of each cell."""

    current: ClassVar["SweepReport | None"] = None

    def __init__(self) -> None:
        self.cells: list[tuple[str, Path | None, str]] = []
        self._passed_over: set[tuple[str, ...]] = set()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Lists the cells, with their directories or why they have none."""
        os.environ[SWEEP_CODE] = code_version()  # the jobs inherit it
        jobs = _jobs(config)
        common = set.intersection(*map(set, jobs))
        names = [" ".join(o for o in job if o not in common) or "the only cell" for job in jobs]
        places = Places(config)
        self.cells = [(name, *places.find(job)) for name, job in zip(names, jobs, strict=True)]
        SweepReport.current = self
        words = {"finished": "finished before, passed over", "failed": "failed before, tried again",
                 "interrupted": "interrupted before, resumed", "not run": "new",
                 "running": "running elsewhere, left alone", "refused": "refused"}  # fmt: skip
        outcomes = [self._outcome(cell) for cell in self.cells]
        self._passed_over = {
            tuple(job)
            for job, cell, found in zip(jobs, self.cells, outcomes, strict=True)
            if cell[1] is None or (found.state == "finished" and _is_whole(cell[1]))
        }
        for _, path, why in self.cells:
            if path is None:
                print(f"error: {why}", file=sys.stderr, flush=True)
        counts = Counter(found.state for found in outcomes)
        found = [f"{n} {words[state]}" for state, n in counts.items()]
        print(f"Sweep:    {len(self.cells)} cells: {'; '.join(found)}", flush=True)

    def is_to_run(self, job: Sequence[str]) -> bool:
        """Whether a cell has something to do, or to say: not if it has finished, or cannot be."""
        return tuple(job) not in self._passed_over

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
        if path is None:
            return Outcome("refused", why)
        try:
            found = outcome(path)
        except (ValueError, KeyError, OSError) as error:
            return Outcome("failed", f"its results are damaged: {str(error).splitlines()[0]}")
        if found.state == "finished" and not _is_whole(path):
            return Outcome("failed", f"{path} holds the results of another run")
        return found


_plugins = Plugins.instance()  # the first time, it loads the modules of plugins anew
_NAME = f"{basic_sweeper.__name__}.BasicSweeper"
BasicSweeper: Any = _plugins.class_name_to_class[_NAME]


class Sweeper(BasicSweeper):
    """Hydra's own, for large sweeps: each cell is composed once before it runs, not three times,
    and the cells that have finished are left out."""

    def split_arguments(
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The cells to run, in batches."""
        (jobs,) = BasicSweeper.split_arguments(overrides, None)
        if SweepReport.current is not None:
            jobs = [job for job in jobs if SweepReport.current.is_to_run(job)]
        size = max_batch_size or max(1, len(jobs))
        return [jobs[i : i + size] for i in range(0, len(jobs), size)]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """`SweepReport` has done so."""


# Hydra instantiates plugins of its own packages only, so ours goes by the name of the one it is.
_plugins.class_name_to_class[_NAME] = Sweeper


def _jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each cell, as Hydra's own sweeper splits them."""
    loader = GlobalHydra.instance().config_loader()
    parameters = config.hydra.sweeper.get("params") or {}
    given = [f"{key}={value}" for key, value in parameters.items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(
        [*given, *config.hydra.overrides.task]
    )
    return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


class Places:
    """Where the cells of a sweep are.

    A cell's directory is named by its resolved configuration. To compose one takes Hydra a tenth of
    a second, so it is done once for all cells that choose the same files, and each cell's values
    are then set in it as Hydra sets them.
    """

    def __init__(self, config: DictConfig):
        self._config = config
        self._loader: Any = GlobalHydra.instance().config_loader()
        self._parse = functools.cache(self._parsed)
        self._compose = functools.cache(self._composed)

    def find(self, job: Sequence[str]) -> tuple[Path | None, str]:
        """A cell's directory, or why it has none."""
        overrides = [self._parse(text) for text in job]
        chosen = tuple(o.input_line for o in overrides if not _is_value(o))
        try:
            cell = copy.deepcopy(self._compose(chosen))
            for override in filter(_is_value, overrides):
                OmegaConf.update(cell, override.key_or_group, override.value(), merge=True)
            return Path(cell.hydra.sweep.dir) / cell.hydra.sweep.subdir, ""
        except Exception:  # what is wrong with it, Hydra says better
            pass
        try:
            cell = self._loader.load_sweep_config(self._config, list(job))
            return Path(cell.hydra.sweep.dir) / cell.hydra.sweep.subdir, ""
        except Exception as error:
            return None, explain(error, job)

    def _parsed(self, text: str) -> Override:
        return OverridesParser.create(config_loader=self._loader).parse_override(text)

    def _composed(self, overrides: tuple[str, ...]) -> DictConfig:
        return self._loader.load_sweep_config(self._config, list(overrides))


def _is_value(override: Override) -> bool:
    """Whether it sets a value of the run, rather than choose a file, or add or delete a key."""
    key = override.key_or_group
    plain = override.type is OverrideType.CHANGE and override.package is None
    return plain and not key.startswith("hydra") and not Path(CONFIGS, key).is_dir()
