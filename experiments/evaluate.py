"""Evaluates a trained run, on its own data or on others.

    python experiments/evaluate.py RUN                                   its validation split, again
    python experiments/evaluate.py RUN task.length=[40,80,160]           other lengths, one by one
    python experiments/evaluate.py RUN "task.path='A5=40.csv'"           a file of sequences
    python experiments/evaluate.py RUN task.length=5120 samples=100      the first 100 sequences

RUN is a run's directory. Any argument of its task can be another, as task.KEY=VALUE; a list of
values is one evaluation each. Of other data than the run's own, all sequences are evaluated, unless
split says otherwise. The table is printed, and every number appended to RUN/evaluations.jsonl.

    split=validation|train    which of the data (default: the run's own validation split)
    seeds=[0,1]               which seeds (default: all)
    samples=N                 at most so many sequences
    piece=N                   positions that a model reads at a time (default: 256)
    trust=PACKAGE             may be called, as in experiments/run.py
"""

import itertools
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException

from experiments.cache import use_compilation_cache
from experiments.errors import ConfigError, EnvironmentFault, exit_code_of
from experiments.evaluation import Outcome, evaluate
from experiments.loading import LoadedRun, load_run
from experiments.lock import is_running
from experiments.loggers.evaluations import log_evaluations
from experiments.results.files import EVALUATIONS, Record, dumps
from experiments.streams import make_steady
from experiments.trust import trust
from experiments.usage import explain

OPTIONS = ("split", "seeds", "samples", "piece")
COLUMNS = {
    "accuracy": "token",
    "accuracy_last": "last token",
    "accuracy_sequence": "sequence",
    "accuracy_uniform": "chance",
    "accuracy_two_positions": "two positions",
    "rmse": "RMSE",
    "rmse_zero": "RMSE of zero",
    "rmse_linear": "RMSE of a linear fit",
}
"""What metrics and baselines are called in the table, where their own names are not clear."""


@dataclass(frozen=True)
class Request:
    """What a command line asks for: some evaluations of a run, by what is given of the task."""

    directory: Path
    given: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def evaluations(self, run: LoadedRun) -> list[dict[str, Any]]:
        """The task's arguments of each. A list is one value each, unless the run has a list there;
        then a list of lists is."""
        own, values = run.config["task"], []
        for key, value in self.given.items():
            several = isinstance(value, list)
            if isinstance(own.get(key), list):
                several = several and all(isinstance(item, list) for item in value)
            if several and not value:
                raise ConfigError(f"task.{key}: got []; expected one value or more")
            values.append(value if several else [value])
        return [dict(zip(self.given, each, strict=True)) for each in itertools.product(*values)]


def command(arguments: Sequence[str]) -> int:
    """The whole command line; returns the exit code, see `experiments.errors`."""
    make_steady()
    if not arguments or set(arguments) & {"-h", "--help"}:
        print(__doc__.strip())
        return 0 if arguments else ConfigError.exit_code
    try:
        _run(_parse(arguments))
        return 0
    except (ConfigError, EnvironmentFault) as error:
        return _tell(str(error), error.exit_code)
    except OSError as error:
        return _tell(f"{error.filename}: {error.strerror or error}", EnvironmentFault.exit_code)
    except KeyboardInterrupt:
        return _tell("interrupted; what was printed is kept", exit_code_of(signal.SIGINT))
    except Exception as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        text = "out of memory; expected a smaller piece (piece=…), or a larger device"
        return _tell(text, EnvironmentFault.exit_code)


def _tell(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr, flush=True)
    return code


def _parse(arguments: Sequence[str]) -> Request:
    """What the command line asks for; `trust=PACKAGE` is acted upon."""
    directory = Path(arguments[0])
    if not directory.is_dir():
        raise ConfigError(f"RUN: got {arguments[0]!r}; expected a run's directory")
    given: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for argument in arguments[1:]:
        if argument.startswith("trust="):
            trust(argument.removeprefix("trust="))
            continue
        override = _override(argument)
        key = str(override.key_or_group)
        name = key.removeprefix("task.")
        if key in OPTIONS:
            options[key] = override.value()
        elif key.startswith("task.") and name.isidentifier() and name[0] != "_":
            given[name] = override.value()
        else:
            raise ConfigError(
                f"{key}: unknown key; expected task.KEY, {', '.join(OPTIONS)} or trust (--help)"
            )
    seeds = options.get("seeds")
    if seeds is not None and not isinstance(seeds, list):
        raise ConfigError(f"seeds: got {seeds!r}; expected a list, as in seeds=[0,1]")
    return Request(directory, given, options)


def _override(argument: str) -> Override:
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except HydraException as error:
        raise ConfigError(explain(error, [argument])) from error
    if override.type != OverrideType.CHANGE or override.is_sweep_override():
        raise ConfigError(f"{argument}: expected KEY=VALUE, or KEY=[VALUE,VALUE] for several")
    return override


def _run(request: Request) -> None:
    """Loads, evaluates, prints and writes down, one outcome after the other."""
    # Full float32 products on every backend, as in training.
    jax.config.update("jax_default_matmul_precision", "highest")
    use_compilation_cache()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        raise EnvironmentFault(f"JAX_PLATFORMS={platforms}: no such device here") from error
    run = load_run(request.directory)
    _introduce(run)
    evaluations = request.evaluations(run)
    width = max(len(_label(given)) for given in evaluations)
    notes: dict[str, None] = {}
    values: dict[int, dict[str, float]] = {}
    for given in evaluations:
        for outcome in evaluate(run, given, **request.options):
            cells = {"task".ljust(width): _label(given)} | _cells(outcome, run.task.metric)
            if not notes:
                print(_line(cells, cells.keys()))
            print(_line(cells, cells.values()), flush=True)
            _append(run.directory, outcome)
            notes[_note(outcome, _label(given))] = None
            prefix = f"evaluation/{_label(given)}/{outcome.split}"
            values.setdefault(outcome.seed, {}).update(
                {f"{prefix}/{key}": v for key, v in _shown(outcome.metrics).items()}
            )
    for note in filter(None, notes):
        print(note)
    print(f"Every number is in {run.directory / EVALUATIONS}", flush=True)
    if not is_running(run.directory):
        log_evaluations(run.directory, run.config, values)


def _introduce(run: LoadedRun) -> None:
    chosen = run.config["options"]
    how = ", ".join(f"seed {seed}: {count:,} steps" for seed, count in run.steps.items())
    if run.predictors:
        how = "frozen features, linear readout"
    print(f"Run:     {run.directory}")
    print(f"Models:  {chosen['model']}, trained on {chosen['task']} ({how})")
    if run.summary is None:
        print("         The run is unfinished: these are of its newest checkpoint.")
    print(flush=True)


def _label(given: Mapping[str, Any]) -> str:
    """What tells an evaluation from the others."""
    return ",".join(f"{key}={value}" for key, value in given.items()) or "its own"


def _shown(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that are not of one position, of which there may be thousands."""
    return {name: value for name, value in metrics.items() if "_at_" not in name}


def _cells(outcome: Outcome, primary: str) -> dict[str, str]:
    """The columns of a row, and what is in them."""
    metrics = _shown(outcome.metrics)
    baselines = {k: v for k, v in outcome.baselines.items() if k.startswith(f"{primary}_")}
    numbers = {COLUMNS.get(k, k): f"{v:.4g}" for k, v in {**metrics, **baselines}.items()}
    counts = {"seed": str(outcome.seed), "sequences": f"{outcome.sequences:,}"}
    return {"split": outcome.split, **counts, **numbers}


def _line(columns: Iterable[str], cells: Iterable[str]) -> str:
    """A row of a table, of which the rows below are not yet known."""
    pairs = zip(columns, cells, strict=True)
    return "  ".join(cell.ljust(max(len(column), 9)) for column, cell in pairs).rstrip()


def _note(outcome: Outcome, label: str) -> str:
    """What a reader should know of sequences that were trained on, or nothing."""
    if outcome.seen is None:
        return f"{label}: whether the run was trained on some of these sequences is not known."
    if outcome.seen and outcome.split != "train":
        return (
            f"{label}: the run was trained on {outcome.seen:,} of these {outcome.sequences:,} "
            "sequences."
        )
    return ""


def _append(directory: Path, outcome: Outcome) -> None:
    """Writes an outcome's metrics to the run's directory, a line each."""
    about = {"on": dict(outcome.on), "sequences": outcome.sequences, "seen": outcome.seen}
    lines = [
        dumps(
            asdict(Record(outcome.step, outcome.seed, outcome.split, k, v, outcome.seconds)) | about
        )
        for k, v in outcome.metrics.items()
    ]
    with open(directory / EVALUATIONS, "a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))


def entry() -> int:
    """The command as a process."""
    return command(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(entry())
