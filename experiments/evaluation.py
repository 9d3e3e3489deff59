"""Trained models on their own task, or on another length, file or setting of it.

run = load_run("runs/a5-mamba/2025-01-01_12-00-00-000000")
for outcome in evaluate(run, {"length": 80}):
    print(outcome.seed, outcome.metrics["accuracy"])
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np

from experiments.errors import ConfigError, EnvironmentFault
from experiments.loading import LoadedRun
from experiments.nodes import instantiate
from experiments.training.pieces import PieceReader, ReadsPieces, mean_statistics
from experiments.training.procedure import load_data, to_floats
from experiments.training.readout import features_of
from tasks.base import AbstractTask, Data, Split

SPLITS = {"validation": "val", "train": "train"}
SIZES = ("vocabulary", "channels", "n_outputs", "per_position")
PIECE = 256
LEAST_POSITIONS = 4096
"""Positions that a batch's pieces have together, unless the run's own evaluations had more."""


@dataclass(frozen=True)
class Outcome:
    """How one seed's model does on one task.

    Attributes:
        step: optimiser steps that the model has taken.
        split: "val" or "train", of the run's data or of others; "test", all of others.
        on: the task's arguments that are not the run's; none for its own data.
        sequences: how many were evaluated.
        seen: how many of them were trained on; None if the run's data cannot be made any more.
        baselines: of the task that was evaluated.
        seconds: that the evaluation took.
    """

    seed: int
    step: int
    split: str
    on: Mapping[str, Any]
    sequences: int
    seen: int | None
    metrics: Mapping[str, float]
    baselines: Mapping[str, float]
    seconds: float


def evaluate(
    run: LoadedRun,
    given: Mapping[str, Any] | None = None,
    *,
    split: str | None = None,
    seeds: Sequence[int] | None = None,
    samples: int | None = None,
    piece: int = PIECE,
) -> Iterator[Outcome]:
    """The outcome of one seed after the other.

    Arguments:
        given: arguments of the run's task that are to be others, {"length": 80} for example.
        split: "validation" or "train"; by default the run's own validation split, and of another
            task all sequences.
        seeds: all by default.
        samples: the most sequences.
        piece: positions that a model reads at a time.

    Raises:
        ConfigError: if the arguments do not fit each other, or the models.
        EnvironmentFault: if a data file is missing or damaged.
    """
    if split not in (None, *SPLITS):
        raise ConfigError(f"split: got {split!r}; expected {' or '.join(SPLITS)}")
    for name, number in (("piece", piece), ("samples", samples)):
        if number is not None and (type(number) is not int or number < 1):
            raise ConfigError(f"{name}: got {number!r}; expected an integer of at least 1")
    seeds = list(run.models) if seeds is None else seeds
    if unknown := [seed for seed in seeds if seed not in run.models]:
        raise ConfigError(f"seeds: got {unknown[0]!r}; expected some of {list(run.models)}")
    task, on = _task(run, given or {})
    data = load_data(task)
    name, examples = _choose(data, split, own=not on)
    examples = Split(*(part[:samples] for part in examples))
    seen = {"val": 0, "train": len(examples.inputs)}[name] if not on else _seen(run, examples)
    baselines = task.baselines(data)
    compute = _metrics(run, task, examples, data.unit, piece)
    for seed in seeds:
        start = time.monotonic()
        metrics = compute(seed)
        seconds = time.monotonic() - start
        size, step = len(examples.inputs), run.steps[seed]
        yield Outcome(seed, step, name, on, size, seen, metrics, baselines, seconds)


def _task(run: LoadedRun, given: Mapping[str, Any]) -> tuple[AbstractTask, dict[str, Any]]:
    """The task to evaluate, and its arguments that are not the run's."""
    own = {key: value for key, value in run.config["task"].items() if key != "_target_"}
    given = {key: value for key, value in given.items() if key not in own or own[key] != value}
    if not given:
        return run.task, {}
    settings = type(run.task).test_settings(own, given)
    node = {**settings, "_target_": run.config["task"]["_target_"]}
    task = instantiate("task", node, AbstractTask)
    for name in SIZES:
        got, expected = getattr(task, name), getattr(run.task, name)
        if got != expected:
            keys = ", ".join(f"task.{key}" for key in given)
            values = ", ".join(map(repr, given.values()))
            raise ConfigError(
                f"{keys}: got {values}, by which the task's {name} is {got}; expected {expected}, "
                "which the run's models are made for"
            )
    return task, {key: value for key, value in settings.items() if own.get(key) != value}


def _choose(data: Data, split: str | None, *, own: bool) -> tuple[str, Split]:
    """The split's name in records, and its examples."""
    if split is None and not own:
        both = zip(data.train, data.validation, strict=True)
        return "test", Split(*(np.concatenate(parts) for parts in both))
    name = SPLITS[split or "validation"]
    return name, data.train if name == "train" else data.validation


def _seen(run: LoadedRun, examples: Split) -> int | None:
    """How many of other data's sequences the run was trained on."""
    shape = examples.inputs.shape[1:]
    if shape[0] > run.task.length:  # a second stream is of shorter ones
        return 0
    try:
        data = load_data(run.task)
    except (ConfigError, EnvironmentFault):
        return None
    streams = [data.train, *([] if data.auxiliary is None else [data.auxiliary])]
    alike = [stream.inputs for stream in streams if stream.inputs.shape[1:] == shape]
    trained_on = {row.tobytes() for inputs in alike for row in inputs}
    return sum(row.tobytes() in trained_on for row in examples.inputs)


def _metrics(
    run: LoadedRun, task: AbstractTask, examples: Split, unit: float | None, piece: int
) -> Callable[[int], dict[str, float]]:
    """A function that computes a seed's metrics; the seeds share what it compiles."""
    length = examples.inputs.shape[1]
    whole = length <= piece
    if not whole and not all(isinstance(m, ReadsPieces) for m in run.models.values()):
        raise ConfigError(
            f"piece: got {piece} for sequences of length {length}; expected at least that, for "
            "the run's models have no `init` and `read`"
        )
    usual = run.config.get("train", {}).get("evaluate_batch_size")
    positions = usual * run.task.length if type(usual) is int else 0
    # Pieces shorter than usual take less memory: they make the batches no larger.
    batch_size = max(1, max(LEAST_POSITIONS, positions) // min(max(piece, PIECE), length))

    if not run.predictors:
        reader = PieceReader(task, task.statistics, piece, batch_size)

        def of_trained(seed: int) -> dict[str, float]:
            means = mean_statistics(reader, run.models[seed], examples)
            return to_floats(task.metrics(means))

        return of_trained

    reader = PieceReader(task, lambda outputs, _: {"features": outputs}, piece, batch_size)
    compute = eqx.filter_jit(lambda model, batch: jax.vmap(model.features)(batch))

    def of_frozen(seed: int) -> dict[str, float]:
        model = run.models[seed]
        if whole:
            features = features_of(compute, model, examples.inputs, unit, batch_size)
        else:
            bare = eqx.tree_at(lambda m: m.readout, model, eqx.nn.Identity())
            features = np.concatenate([found["features"] for found in reader(bare, examples)])
        return run.predictors[seed].metrics(task, features.astype(np.float64), examples.targets)

    return of_frozen
