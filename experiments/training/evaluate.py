"""Evaluation over a whole split, with no dropout and no random key: it cannot move the training."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from experiments.training.batches import Examples, take
from experiments.training.devices import ALONE, Layout
from tasks.base import AbstractTask

Sums = dict[str, Array]
"""Statistics summed over examples."""


class Evaluation(NamedTuple):
    """A model's statistics over a split, a few batches at a time.

    The split is visited `batch_size` examples at a time, rounded up to a multiple of the devices
    that share them; the last batch is filled up with examples of weight zero, so that none is left
    out and none counts twice. How batches are grouped into calls changes no number.
    """

    task: AbstractTask
    static: PyTree
    batch_size: int
    layout: Layout = ALONE

    def check(self) -> "Evaluation":
        """Raises ValueError if batch_size < 1."""
        if self.batch_size < 1:
            raise ValueError(f"evaluate_batch_size: got {self.batch_size}; expected at least 1")
        return self

    def width(self, size: int) -> int:
        """Examples in a batch of a split of so many."""
        return -(-min(self.batch_size, size) // self.layout.batch) * self.layout.batch

    def zeros(self, params: PyTree, split: Examples) -> Sums:
        """The sums over no example."""
        model = self._model(params)

        def one(examples):
            first = jax.tree.map(lambda v: v[0], take(examples, jnp.arange(1)))
            return self.task.statistics(model(first.inputs), first.targets)

        shapes = jax.eval_shape(one, split)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(
        self, params: PyTree, split: Examples, sums: Sums, start: Int[Array, ""], n: Int[Array, ""]
    ) -> Sums:
        """The sums with those of `n` batches from example `start` on, or of what is left."""
        model = self._model(params)
        size = len(split.inputs)
        width = self.width(size)

        def one(x, y):
            return self.task.statistics(model(x), y)

        def add_batch(carry):
            i, sums = carry
            indices = self.layout.share(start + i * width + jnp.arange(width))
            statistics = jax.vmap(one)(*take(split, jnp.minimum(indices, size - 1)))
            weight = (indices < size).astype(jnp.float32)
            new = jax.tree.map(lambda s: jnp.tensordot(weight, s, axes=1), statistics)
            new = jax.tree.map(lambda s: s * self.layout.batch, self.layout.mean(new))
            return i + 1, jax.tree.map(jnp.add, sums, new)

        def more(carry):
            i, _ = carry
            return (i < n) & (start + i * width < size)

        return jax.lax.while_loop(more, add_batch, (jnp.zeros_like(n), sums))[1]

    def _model(self, params: PyTree) -> PyTree:
        return eqx.nn.inference_mode(eqx.combine(params, self.static))
