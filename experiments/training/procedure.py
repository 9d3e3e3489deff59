"""What gradient training and frozen-feature regression have in common."""

import abc
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree

from experiments.errors import ConfigError, EnvironmentFault
from experiments.loggers import AbstractLogger
from experiments.rundir import RunDirectory
from experiments.training.batches import Examples
from tasks.base import AbstractTask, DamagedData, Data, Split


@runtime_checkable
class Model(Protocol):
    """What a procedure knows of a model: an Equinox module of one example."""

    pooling: str

    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array:
        """The outputs."""
        ...

    def features(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array:
        """What the readout sees."""
        ...


@runtime_checkable
class GroupsPaths(Protocol):
    """A model with a faster way to the features of many paths on a lattice than one by one."""

    def features_of_many(
        self, x: np.ndarray, unit: float, done: Callable[[int], None] = ...
    ) -> np.ndarray:
        """`features` of many paths; raises `ssm.scans.grouped.Ungrouped` if there is none here."""
        ...


MakeModel = Callable[[PRNGKeyArray], Model]


class AbstractProcedure(abc.ABC):
    """A way to turn a task and a model into results, one model a seed."""

    @abc.abstractmethod
    def check(self, task: AbstractTask, model: Model) -> None:
        """Raises ValueError, before any data is loaded, if task and model do not fit."""

    @abc.abstractmethod
    def load(self, task: AbstractTask, make_model: MakeModel) -> Data:
        """The task's data. Whatever of them does not fit is found here, before a logger is opened.

        Raises:
            EnvironmentFault: if a file is missing or damaged.
            ConfigError: if they cannot be made, or are too few.
        """

    @abc.abstractmethod
    def check_saved(self, description: Mapping[str, Any]) -> None:
        """Raises ValueError unless this procedure, in `run`, may have written such a checkpoint.

        Arguments:
            description: of the checkpoint; what the procedure said is its "procedure".
        """

    @abc.abstractmethod
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
        """Does the work, from where an earlier process left it, if one did.

        Arguments:
            data: from `load`.

        Returns:
            {"seeds": {seed: {"final": {metric: value}, …}}, "baselines": {…}, …}, plain data. A
            seed whose loss or gradient became infinite or NaN has "failed_at", the steps it took,
            and "failed_in", the parameter or the loss; its last good parameters are kept, and the
            other seeds go on.

        Raises:
            Interrupted: if a signal asked it to stop, after a checkpoint.
            EnvironmentFault: if a checkpoint cannot be written.
        """


def load_data(task: AbstractTask) -> Data:
    """The task's data.

    Raises:
        EnvironmentFault: if a file is missing or damaged.
        ConfigError: if they cannot be made.
    """
    try:
        return task.load()
    except OSError as error:
        raise EnvironmentFault(f"task.{error}") from error
    except DamagedData as error:
        raise EnvironmentFault(f"task.path: {error}") from error
    except ValueError as error:
        separator = "." if re.match(r"\w+ must ", str(error)) else ": "
        raise ConfigError(f"task{separator}{error}") from error


def on_device(split: Split) -> Examples:
    """A split as device arrays, of the small types it came in."""
    return Examples(jnp.asarray(split.inputs), jnp.asarray(split.targets))


def static_part(make_model: MakeModel) -> PyTree:
    """What of a model is not a trainable array, without computing any array.

    Raises:
        TypeError: if the model has an array that is not trainable: it would be lost.
    """
    shapes = eqx.filter_eval_shape(make_model, jr.key(0))
    arrays, static = eqx.partition(shapes, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    for leaf in jax.tree.leaves(arrays):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(f"a model's arrays must be trainable, real or complex; got {leaf}")
    return static


def to_floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as plain floats."""
    return {name: float(value) for name, value in metrics.items()}


def metrics_of(task: AbstractTask, means: Mapping[str, Any], index: int) -> dict[str, float]:
    """The task's metrics of the seed at `index`, from statistics with a leading axis of seeds."""
    return to_floats(task.metrics({name: jax.device_get(v[index]) for name, v in means.items()}))
