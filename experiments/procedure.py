"""What gradient training and frozen-feature regression have in common."""

import abc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from experiments.batches import Examples
from experiments.loggers import AbstractLogger
from tasks.base import AbstractTask, Split


class Model(Protocol):
    """What a procedure knows of a model: an Equinox module of one example."""

    pooling: str

    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array:
        """The outputs."""
        ...

    def features(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array:
        """What the readout sees."""
        ...


MakeModel = Callable[[PRNGKeyArray], Model]


class NonFiniteError(RuntimeError):
    """A loss or gradient became infinite or NaN; the message says at which step of which seeds."""


class AbstractProcedure(abc.ABC):
    """A way to turn a task and a model into results, one model a seed."""

    @abc.abstractmethod
    def check(self, task: AbstractTask, model: Model) -> None:
        """Raises ValueError, before any data is loaded, if task and model do not fit."""

    @abc.abstractmethod
    def run(
        self,
        task: AbstractTask,
        make_model: MakeModel,
        optimizer: optax.GradientTransformation,
        seeds: Sequence[int],
        logger: AbstractLogger,
        directory: Path,
    ) -> Mapping[str, Any]:
        """Does the work.

        Returns:
            {"seeds": {seed: {"final": {metric: value}, …}}, "baselines": {…}, …}, plain data.

        Raises:
            NonFiniteError: after the other seeds have ended, if a seed failed.
        """


def on_device(split: Split) -> Examples:
    """A split as device arrays, of the small types it came in."""
    return Examples(jnp.asarray(split.inputs), jnp.asarray(split.targets))


def to_floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as plain floats."""
    return {name: float(value) for name, value in metrics.items()}


def metrics_of(task: AbstractTask, means: Mapping[str, jax.Array], index: int) -> dict[str, float]:
    """The task's metrics of the seed at `index`, from statistics with a leading axis of seeds."""
    return to_floats(task.metrics({name: jax.device_get(v[index]) for name, v in means.items()}))
