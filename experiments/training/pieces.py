"""Sequences through a model in pieces: the device's memory does not grow with their length."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from experiments.training.procedure import Model
from tasks.base import AbstractTask, Split

Measure = Callable[[Array, Array], dict[str, Array]]


@runtime_checkable
class ReadsPieces(Protocol):
    """A model that reads a sequence piece by piece."""

    def init(self, length: int | None = None) -> PyTree:
        """The state before the first piece of a sequence of that length."""
        ...

    def read(
        self, x: Array, state: PyTree, *, dt: Any = None, key: PRNGKeyArray | None = None
    ) -> tuple[Array, PyTree]:
        """The outputs for a piece, or for all that has been read; and the state after it."""
        ...


class PieceReader:
    """What is measured of each sequence of a split, `piece` positions at a time.

    On the device are a batch's piece and states only. A sequence that fits into one piece is given
    to the model whole. The models of several seeds share the compiled programs.

    Arguments:
        task: whose `count` and `join` put measurements of pieces together.
        measure: (outputs, targets) of a sequence or a piece ↦ named numbers, `task.statistics` for
            example. If there is one output per sequence, that after the last piece is measured.
        piece: positions at a time.
        batch_size: sequences at a time.
    """

    def __init__(self, task: AbstractTask, measure: Measure, piece: int, batch_size: int):
        self.task, self.piece, self.batch_size = task, piece, batch_size

        @eqx.filter_jit
        def whole(model, x, y):
            return jax.vmap(lambda x, y: measure(model(x), y))(x, y)

        @eqx.filter_jit
        def start(model, x, length):
            return jax.vmap(lambda _: model.init(length))(x[:, 0])

        @eqx.filter_jit(donate="all-except-first")
        def read(model, state, x, y):
            def one(state, x, y):
                outputs, state = model.read(x, state)
                count = task.count(y) if task.per_position else jnp.float32(1)
                return state, (measure(outputs, y), count)

            return jax.vmap(one)(state, x, y)

        self._whole, self._start, self._read = whole, start, read

    def __call__(self, model: Model, split: Split) -> Iterator[dict[str, np.ndarray]]:
        """The measurements of a batch of sequences after the other, sequences first.

        Raises:
            TypeError: if sequences are longer than a piece, and the model reads none.
        """
        size, length = split.inputs.shape[:2]
        if length > self.piece and not isinstance(model, ReadsPieces):
            raise TypeError(f"{type(model).__name__} has no `init` and `read`")
        width = min(self.batch_size, size)
        for begin in range(0, size, width):
            # The last batch is filled up, so that its shape is that of the others.
            indices = np.minimum(np.arange(begin, begin + width), size - 1)
            found = self._batch(model, *(_widened(part[indices]) for part in split))
            yield {name: values[: size - begin] for name, values in found.items()}

    def _batch(self, model: Any, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        length = x.shape[1]
        if length <= self.piece:
            return jax.device_get(self._whole(model, x, y))
        state = self._start(model, x[:, :1], length)
        pieces, counts = [], []
        for begin in range(0, length, self.piece):
            now = np.s_[:, begin : begin + self.piece]
            targets = y[now] if self.task.per_position else y
            state, measured = self._read(model, state, x[now], targets)
            found, count = jax.device_get(measured)
            pieces.append(found)
            counts.append(count)
        return self.task.join(pieces, counts) if self.task.per_position else pieces[-1]


def mean_statistics(reader: PieceReader, model: Model, split: Split) -> dict[str, np.ndarray]:
    """What a reader measures, averaged over a split: what the task makes its metrics of."""
    sums: dict[str, Any] = {}
    for found in reader(model, split):
        for name, values in found.items():
            sums[name] = sums.get(name, 0.0) + np.sum(values, axis=0, dtype=np.float64)
    return {name: np.asarray(total / len(split.inputs)) for name, total in sums.items()}


def _widened(part: np.ndarray) -> np.ndarray:
    """Token indices and classes as int32, as in training."""
    return part.astype(np.int32) if np.issubdtype(part.dtype, np.integer) else part
