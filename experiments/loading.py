"""A run's directory, loaded: its task, its trained models, its numbers.

    run = load_run("runs/a5-mamba/2025-01-01_12-00-00-000000")
    logits = run.models[0](tokens)

The directory may be a stranger's: only what `experiments.trust` allows is called, nothing is
unpickled, and no file makes this take more memory than it has bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PyTree

from experiments.config import model_maker
from experiments.errors import ConfigError, EnvironmentFault
from experiments.nodes import instantiate, located
from experiments.results.files import (
    CHECKPOINTS,
    CONFIG,
    METRICS,
    SUMMARY,
    Record,
    check_files,
    model_file,
    read_metrics,
    read_summary,
    read_yaml,
)
from experiments.results.migration import migrated
from experiments.results.reading import mapping, reading
from experiments.training import checkpoint
from experiments.training.procedure import MakeModel, Model
from experiments.training.readout import Linear, load_fitted
from tasks.base import AbstractTask

MOST_NODES = 100_000
"""More than any configuration has; YAML's aliases could make billions of a few lines."""


@dataclass(frozen=True)
class LoadedRun:
    """A run and what came of it.

    Attributes:
        config: resolved, in the words of this version.
        task: built, its data not yet made.
        models: by seed, trained, in inference mode. Those of an unfinished run are of its newest
            whole checkpoint.
        steps: by seed, the optimiser steps its model has taken.
        metrics: all numbers that were logged.
        summary: what `summary.json` says; None if the run is unfinished.
        predictors: by seed, of frozen features only: the linear predictor in float64, which a
            model's readout is in float32.
    """

    directory: Path
    config: Mapping[str, Any]
    task: AbstractTask
    models: Mapping[int, Any]
    steps: Mapping[int, int]
    metrics: Sequence[Record]
    summary: Mapping[str, Any] | None
    predictors: Mapping[int, Linear] = field(default_factory=dict)

    def metrics_table(self) -> dict[str, list[Any]]:
        """The metrics as columns, for `pandas.DataFrame` or Matplotlib: step, seed, split, metric,
        value and seconds."""
        return {f.name: [getattr(r, f.name) for r in self.metrics] for f in fields(Record)}


def load_run(directory: str | Path) -> LoadedRun:
    """Loads a run from its directory, which `python experiments/run.py` made.

    Raises:
        EnvironmentFault: if a file is missing, damaged, or of another model than this code builds;
            it names the file.
        ConfigError: if the configuration calls what is not trusted, or what this code has not.
    """
    directory = Path(directory)
    path = directory / CONFIG
    try:
        if path.exists():
            check_files(directory)
    except (ValueError, OSError) as error:
        raise EnvironmentFault(str(error)) from error
    with _reading(path, "expected a run's directory, as experiments/run.py makes it"):
        config = migrated(mapping(_small(read_yaml(path))))
        seeds, procedure = _seeds(config["seeds"]), config["procedure"]
        nodes = {name: mapping(config[name]) for name in ("task", "model")}
    try:
        task, make_model = _build(nodes)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    summary = None
    if (directory / SUMMARY).exists():
        with _reading(directory / SUMMARY):
            summary = read_summary(directory / SUMMARY)
    with _reading(directory / METRICS):
        metrics = read_metrics(directory)
    if procedure == "readout":
        found = _fitted(directory, seeds, task, make_model, summary)
        models, predictors = (
            {s: m for s, (m, _) in found.items()},
            {s: p for s, (_, p) in found.items()},
        )
        return LoadedRun(
            directory, config, task, models, dict.fromkeys(models, 0), metrics, summary, predictors
        )
    shapes, static = _parts(make_model)
    if summary is None:
        params, steps = _from_checkpoint(directory, seeds, shapes)
    else:
        params = {seed: _from_file(directory, seed, shapes, summary) for seed in seeds}
        steps = {s: int(summary["seeds"].get(str(s), {}).get("steps") or 0) for s in seeds}
    models = {s: eqx.nn.inference_mode(eqx.combine(p, static)) for s, p in params.items()}
    return LoadedRun(directory, config, task, models, steps, metrics, summary)


@contextmanager
def _reading(path: Path, advice: str = "restore it, or run again") -> Iterator[None]:
    """What goes wrong inside is a fault of the file; the error says which, why and what to do."""
    try:
        with reading(path):
            yield
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"{error}; {advice}") from error


def _small(data: Any) -> Any:
    """The same data, which must be a tree of moderate size."""
    left, count = [data], 0
    while left:
        node = left.pop()
        count += 1
        if count > MOST_NODES:
            raise ValueError(f"it has more than {MOST_NODES:,} values")
        if isinstance(node, Mapping):
            left.extend(node.values())
        elif isinstance(node, list):
            left.extend(node)
    return data


def _seeds(seeds: Any) -> list[int]:
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise ValueError(f"seeds: got {seeds!r}; expected a list of integers")
    return seeds


def _build(nodes: Mapping[str, Any]) -> tuple[AbstractTask, MakeModel]:
    """The task, and what makes a model for it.

    Raises:
        ConfigError: naming the key.
    """
    for name, node in nodes.items():
        _check_resolved(name, node)
    task = instantiate("task", nodes["task"], AbstractTask)
    make_model = model_maker(nodes["model"], task)
    try:
        model = eqx.filter_eval_shape(make_model, jr.key(0))
    except (TypeError, ValueError, ArithmeticError, MemoryError) as error:
        raise ConfigError(located("model", error, nodes["model"])) from error
    if not isinstance(model, Model):
        raise ConfigError(
            f"model._target_: got {nodes['model']['_target_']!r}, which makes no model"
        )
    return task, make_model


def _check_resolved(path: str, node: Any) -> None:
    """Refuses references, which Hydra would resolve: a run's configuration has none left."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            _check_resolved(f"{path}.{key}", value)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check_resolved(f"{path}[{index}]", value)
    elif isinstance(node, str) and "${" in node:
        raise ConfigError(f"{path}: got {node!r}; expected a value, without a reference")


def _parts(make_model: MakeModel) -> tuple[PyTree, PyTree]:
    """A model's arrays, abstract, and the rest of it."""
    shapes = eqx.filter_eval_shape(make_model, jr.key(0))
    return eqx.partition(shapes, lambda x: isinstance(x, jax.ShapeDtypeStruct))


def _other_model(summary: Mapping[str, Any] | None) -> str:
    """What to do about parameters of another model than this code builds."""
    commit = (summary or {}).get("commit")
    made = f", made at commit {commit[:12]}," if isinstance(commit, str) else ""
    return f"restore it, or use the code that the run{made} was of"


def _from_file(
    directory: Path, seed: int, shapes: PyTree, summary: Mapping[str, Any] | None
) -> PyTree:
    path = _model_path(directory, seed)
    with _reading(path, _other_model(summary)):
        return checkpoint.load(path, shapes)


def _model_path(directory: Path, seed: int) -> Path:
    path = directory / model_file(seed)
    with _reading(path, "restore it, or run again (published results have no parameters)"):
        path.stat()
    return path


def _from_checkpoint(
    directory: Path, seeds: Sequence[int], shapes: PyTree
) -> tuple[dict[int, PyTree], dict[int, int]]:
    """Each seed's parameters and steps, from the newest checkpoint that is whole."""
    found = _newest(directory)
    with _reading(found.path, _other_model(None)):
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(seeds), *x.shape), x.dtype), shapes)
        params = found.restore(like, ".state.params")
        counts = jax.ShapeDtypeStruct((len(seeds),), np.int32)
        steps = found.restore(counts, ".state.step")
    models = {
        seed: jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), params) for i, seed in enumerate(seeds)
    }
    return models, {seed: int(step) for seed, step in zip(seeds, steps, strict=True)}


def _newest(directory: Path) -> checkpoint.Checkpoint:
    """The newest checkpoint that is whole; damaged ones stay where they are."""
    files = checkpoint.list_files(directory / CHECKPOINTS)
    for path in reversed(files):
        try:
            return checkpoint.read(path)
        except checkpoint.CheckpointError:
            continue
    what = "every checkpoint is damaged" if files else "no checkpoint yet"
    raise EnvironmentFault(
        f"{directory / CHECKPOINTS}: {what}, and the run is unfinished (no {SUMMARY}); run it "
        f"to its end: python experiments/run.py resume={directory}"
    )


def _fitted(
    directory: Path,
    seeds: Sequence[int],
    task: AbstractTask,
    make_model: MakeModel,
    summary: Mapping[str, Any] | None,
) -> dict[int, tuple[PyTree, Linear]]:
    """The frozen models of the seeds that are done, and their predictors."""
    if summary is None:
        description = _newest(directory).description
        with _reading(directory / CHECKPOINTS):
            done = description["procedure"]["results"]
            seeds = [seed for seed in seeds if str(seed) in done]
    found = {}
    for seed in seeds:
        path = _model_path(directory, seed)
        with _reading(path, _other_model(summary)):
            model, predictor = load_fitted(path, task, make_model)
        found[seed] = eqx.nn.inference_mode(model), predictor
    return found
