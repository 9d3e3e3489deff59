"""Frozen random features with a linear readout by ordinary least squares."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import scipy.linalg

from experiments.errors import ConfigError
from experiments.loggers import AbstractLogger
from experiments.results.files import Record, model_file
from experiments.rundir import RunDirectory
from experiments.training import checkpoint
from experiments.training.procedure import (
    AbstractProcedure,
    GroupsPaths,
    MakeModel,
    Model,
    load,
    static_part,
    to_floats,
)
from ssm.init import named_key
from ssm.scans.grouped import Ungrouped
from tasks.base import AbstractTask


class Fit(NamedTuple):
    """A linear predictor y = x W + c, and how well its least-squares problem was posed."""

    weights: np.ndarray
    intercept: np.ndarray
    rank: int
    condition_number: float


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
        if self.batch_size < 1:
            raise ValueError(f"batch_size: got {self.batch_size}; expected at least 1")

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

    def run(
        self,
        task: AbstractTask,
        make_model: MakeModel,
        optimizer: optax.GradientTransformation,
        seeds: Sequence[int],
        logger: AbstractLogger,
        rundir: RunDirectory,
    ) -> Mapping[str, Any]:
        data = load(task)
        before: Any = rundir.restored and rundir.restored.description["procedure"]
        start = time.monotonic() - (before["seconds"] if before else 0.0)
        results: dict[str, Any] = dict(before["results"]) if before else {}
        each = len(data.train.inputs) + len(data.validation.inputs)
        progress = _Progress(logger, rundir, len(seeds) * each, len(results) * each)
        compute = self._compile(make_model, data.train.inputs)
        for seed in seeds:
            if str(seed) in results:
                continue
            model = make_model(named_key(jr.key(seed), "model"))
            train = self._features(compute, model, data.train.inputs, data.unit, progress)
            fit = least_squares(train, data.train.targets)
            validation = self._features(compute, model, data.validation.inputs, data.unit, progress)
            final = {}
            for split, features, targets in (
                ("train", train, data.train.targets),
                ("val", validation, data.validation.targets),
            ):
                error = features @ fit.weights + fit.intercept - np.asarray(targets, np.float64)
                mean = {"squared_error": np.mean(np.sum(error**2, axis=-1))}
                metrics = to_floats(task.metrics(mean))
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

    def _compile(self, make_model: MakeModel, inputs: np.ndarray) -> Callable[..., jax.Array]:
        """Features of a batch from a model's parameters; one program serves every seed.

        Raises:
            ConfigError: if there are too few examples for the readout.
        """
        shapes = eqx.filter_eval_shape(make_model, jr.key(0))
        example = jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype)
        d_model = eqx.filter_eval_shape(lambda m, x: m.features(x), shapes, example).shape[-1]
        if len(inputs) <= d_model:
            raise ConfigError(
                f"model.d_model: got {d_model} with {len(inputs)} training examples; least squares "
                "needs more examples than features"
            )
        static = eqx.nn.inference_mode(static_part(make_model))

        def features(params, batch):
            return jax.vmap(eqx.combine(params, static).features)(batch)

        return jax.jit(features)

    def _features(
        self,
        compute: Callable[..., jax.Array],
        model: Model,
        inputs: np.ndarray,
        unit: float | None,
        progress: "_Progress",
    ) -> np.ndarray:
        """Features of every example, (examples, d) float64."""
        size, before = len(inputs), progress.done
        if unit is not None and isinstance(model, GroupsPaths):
            try:
                many = model.features_of_many(inputs, unit, lambda n: progress.set(before + n))
                progress.set(before + size)
                return many.astype(np.float64)
            except Ungrouped:  # one by one, then
                progress.set(before)
        params = eqx.filter(model, eqx.is_inexact_array)
        width = min(self.batch_size, size)
        pieces = []
        for begin in range(0, size, width):
            batch = inputs[begin : begin + width]
            # The last batch is filled up, so that its shape is that of the others.
            filled = np.resize(batch, (width, *batch.shape[1:]))
            pieces.append(np.asarray(compute(params, jnp.asarray(filled)))[: len(batch)])
            progress.set(before + begin + len(batch))
        return np.concatenate(pieces).astype(np.float64)


class _Progress:
    """Counts examples for the logger, and acts upon signals."""

    def __init__(self, logger: AbstractLogger, rundir: RunDirectory, total: int, done: int):
        self.logger, self.rundir, self.total, self.done = logger, rundir, total, done
        self.first, self.start = done, time.monotonic()

    def set(self, done: int) -> None:
        """Notes how many examples are done. Raises `Interrupted` if a signal has come."""
        if self.rundir.interruption.signum is not None:
            self.rundir.flush()
            self.rundir.interruption.check()
        self.done = done
        rate = (self.done - self.first) / (time.monotonic() - self.start)
        self.logger.status(step=self.done, total_steps=self.total, steps_per_second=rate)
