"""Frozen random features with a linear readout by ordinary least squares."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import scipy.linalg
from jaxtyping import PyTree

from experiments.errors import ConfigError
from experiments.loggers import AbstractLogger
from experiments.results import schema
from experiments.results.files import Record, model_file
from experiments.rundir import RunDirectory
from experiments.training import checkpoint
from experiments.training.procedure import (
    AbstractProcedure,
    GroupsPaths,
    MakeModel,
    Model,
    load_data,
    static_part,
    to_floats,
)
from ssm.init import named_key
from ssm.scans.grouped import Ungrouped
from tasks.base import AbstractTask, Data


class Linear(NamedTuple):
    """A linear predictor y = x W + c, in float64."""

    weights: np.ndarray
    intercept: np.ndarray

    def metrics(
        self, task: AbstractTask, features: np.ndarray, targets: np.ndarray
    ) -> dict[str, float]:
        """The task's metrics of what it predicts from the features of some examples."""
        error = features @ self.weights + self.intercept - np.asarray(targets, np.float64)
        return to_floats(task.metrics({"squared_error": np.mean(np.sum(error**2, axis=-1))}))


class Fit(NamedTuple):
    """A linear predictor, and how well its least-squares problem was posed."""

    weights: np.ndarray
    intercept: np.ndarray
    rank: int
    condition_number: float

    @property
    def linear(self) -> Linear:
        """The predictor alone."""
        return Linear(self.weights, self.intercept)


def least_squares(features: np.ndarray, targets: np.ndarray) -> Fit:
    """The minimiser of Σ |x W + c − y|² of least norm, in float64.

    Features and targets are centred, which solves for the intercept, and the rest is solved by the
    singular value decomposition (LAPACK's gelsd), so that a rank-deficient problem has a solution.

    Arguments:
        features: (examples, d).
        targets: (examples, outputs).

    Raises:
        ValueError: if there are fewer examples than features, or a feature is not finite.
    """
    x = np.asarray(features, np.float64)
    y = np.asarray(targets, np.float64)
    if len(x) <= x.shape[1]:
        raise ValueError(
            f"least squares: got {len(x)} training examples for {x.shape[1]} features; expected "
            "more examples than features"
        )
    if not np.isfinite(x).all():
        raise ValueError("least squares: got features that are not finite")
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    # A QR decomposition first leaves a small triangular problem with the same singular values.
    q, r = scipy.linalg.qr(x - x_mean, mode="economic", check_finite=False)
    weights, _, rank, singular = scipy.linalg.lstsq(r, q.T @ (y - y_mean), lapack_driver="gelsd")
    smallest = float(singular[-1])
    condition = float(singular[0]) / smallest if smallest > 0 else float("inf")
    return Fit(weights, y_mean - x_mean @ weights, int(rank), condition)


@final
@dataclass(frozen=True)
class LeastSquares(AbstractProcedure):
    """Features of a frozen random model, and the best linear predictor from them (no training).

    A checkpoint is written after each seed.

    Arguments:
        batch_size: examples whose features are computed at a time.
    """

    batch_size: int = 1000

    def __post_init__(self):
        if not 1 <= self.batch_size < 2**31:
            raise ValueError(f"batch_size: got {self.batch_size}; expected 1 to 2³¹−1")

    def check(self, task: AbstractTask, model: Model) -> None:
        if task.per_position or task.metric != "rmse":
            raise ValueError(
                "procedure: got 'readout', but least squares needs one real target a sequence, as "
                "the signature tasks have; expected 'train'"
            )
        if model.pooling == "none":
            raise ValueError(
                "model.pooling: got 'none', but the readout needs one vector of features a "
                "sequence; expected 'mean' or 'last'"
            )

    def load(self, task: AbstractTask, make_model: MakeModel) -> Data:
        data = load_data(task)
        n, d_model = len(data.train.inputs), _width(make_model, data.train.inputs)
        if n <= d_model:
            raise ConfigError(
                f"model.d_model: got {d_model} with {n} training examples; least squares needs "
                "more examples than features"
            )
        return data

    def check_saved(self, description: Mapping[str, Any]) -> None:
        schema.check(schema.ReadOut, description["procedure"])

    def run(
        self,
        data: Data,
        task: AbstractTask,
        make_model: MakeModel,
        optimizer: optax.GradientTransformation,
        seeds: Sequence[int],
        logger: AbstractLogger,
        rundir: RunDirectory,
    ) -> Mapping[str, Any]:
        before: Any = rundir.restored and rundir.restored.description["procedure"]
        start = time.monotonic() - (before["seconds"] if before else 0.0)
        results: dict[str, Any] = dict(before["results"]) if before else {}
        each = len(data.train.inputs) + len(data.validation.inputs)
        progress = _Progress(logger, rundir, len(seeds) * each, len(results) * each)
        compute = self._compile(make_model)
        for seed in seeds:
            if str(seed) in results:
                continue
            model = make_model(named_key(jr.key(seed), "model"))
            train, validation = (
                features_of(
                    compute, model, split.inputs, data.unit, self.batch_size, progress.counter()
                )
                for split in (data.train, data.validation)
            )
            fit = least_squares(train, data.train.targets)
            final = {}
            for split, features, targets in (
                ("train", train, data.train.targets),
                ("val", validation, data.validation.targets),
            ):
                metrics = fit.linear.metrics(task, features, targets)
                seconds = time.monotonic() - start
                logger.log([Record(0, seed, split, k, v, seconds) for k, v in metrics.items()])
                final = metrics
            results[str(seed)] = {
                "final": final,
                f"best_{task.metric}": final[task.metric],
                "rank": fit.rank,
                "condition_number": fit.condition_number,
            }
            model_path = rundir.path / model_file(seed)
            checkpoint.save(model_path, (model, fit.weights, fit.intercept))
            rundir.save({}, {"results": results, "seconds": time.monotonic() - start})
        rundir.flush()
        return {
            "metric": task.metric,
            "training_seconds": time.monotonic() - start,
            "seeds": results,
            "baselines": task.baselines(data),
        }

    def _compile(self, make_model: MakeModel) -> Callable[..., jax.Array]:
        """Features of a batch from a model's parameters; one program serves every seed."""
        static = eqx.nn.inference_mode(static_part(make_model))

        def features(params, batch):
            return jax.vmap(eqx.combine(params, static).features)(batch)

        return jax.jit(features)


def features_of(
    compute: Callable[..., jax.Array],
    model: Model,
    inputs: np.ndarray,
    unit: float | None,
    batch_size: int,
    done: Callable[[int], None] = lambda examples: None,
) -> np.ndarray:
    """A frozen model's features of every example, (examples, d) float64.

    Arguments:
        compute: features of a batch from a model's parameters.
        unit: of the lattice that the inputs are on, if they are paths on one.
        batch_size: examples at a time.
        done: called with the number of examples that are done.
    """
    size = len(inputs)
    if unit is not None and isinstance(model, GroupsPaths):
        try:
            many = model.features_of_many(inputs, unit, done)
            done(size)
            return many.astype(np.float64)
        except Ungrouped:  # one by one, then
            done(0)
    params = eqx.filter(model, eqx.is_inexact_array)
    width = min(batch_size, size)
    batches = []
    for begin in range(0, size, width):
        batch = inputs[begin : begin + width]
        # The last batch is filled up, so that its shape is that of the others.
        filled = np.resize(batch, (width, *batch.shape[1:]))
        batches.append(np.asarray(compute(params, jnp.asarray(filled)))[: len(batch)])
        done(begin + len(batch))
    return np.concatenate(batches).astype(np.float64)


def _width(make_model: MakeModel, inputs: np.ndarray | jax.ShapeDtypeStruct) -> int:
    """How many features there are."""
    shapes = eqx.filter_eval_shape(make_model, jr.key(0))
    example = jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype)
    return eqx.filter_eval_shape(lambda m, x: m.features(x), shapes, example).shape[-1]


def load_fitted(path: Path, task: AbstractTask, make_model: MakeModel) -> tuple[PyTree, Linear]:
    """A frozen model as `LeastSquares` keeps it, and its linear predictor.

    The predictor, rounded to float32, is the model's readout too.

    Raises:
        CheckpointError: if the file is damaged, or of another model.
        OSError: if it cannot be read.
    """
    example = jax.ShapeDtypeStruct((1, task.length, task.channels), np.float32)
    shape = (_width(make_model, example), task.n_outputs)
    like = (eqx.filter_eval_shape(make_model, jr.key(0)), np.zeros(shape), np.zeros(shape[1]))
    model, *linear = checkpoint.load(path, like)
    weights, intercept = (jnp.asarray(x, jnp.float32) for x in linear)
    readout = eqx.nn.Linear(*shape, key=jr.key(0))
    readout = eqx.tree_at(lambda r: (r.weight, r.bias), readout, (weights.T, intercept))
    return eqx.tree_at(lambda m: m.readout, model, readout), Linear(*linear)


class _Progress:
    """Counts examples for the logger, and acts upon signals."""

    def __init__(self, logger: AbstractLogger, rundir: RunDirectory, total: int, done: int):
        self.logger, self.rundir, self.total, self.done = logger, rundir, total, done
        self.first, self.start = done, time.monotonic()

    def counter(self) -> Callable[[int], None]:
        """A function that notes how many more examples than now are done."""
        before = self.done
        return lambda examples: self.set(before + examples)

    def set(self, done: int) -> None:
        """Notes how many examples are done. Raises `Interrupted` if a signal has come."""
        if self.rundir.interruption.signum is not None:
            self.rundir.flush()
            self.rundir.interruption.check()
        self.done = done
        rate = (self.done - self.first) / (time.monotonic() - self.start)
        self.logger.status(step=self.done, total_steps=self.total, steps_per_second=rate)
