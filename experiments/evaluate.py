"""Evaluation over a whole split, with no dropout and no random key: it cannot move the training."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from experiments.batches import Examples, take
from experiments.devices import ALONE, Layout
from tasks.base import AbstractTask


def make_evaluation(
    task: AbstractTask, static: PyTree, batch_size: int, layout: Layout = ALONE
) -> Callable[[PyTree, Examples], dict[str, Array]]:
    """A pure function (params, split) → the task's statistics averaged over every example.

    The split is visited `batch_size` examples at a time, rounded up to a multiple of the devices
    that share them; the last batch is filled up with examples of weight zero, so that none is left
    out and none counts twice.

    Raises:
        ValueError: if batch_size < 1.
    """
    if batch_size < 1:
        raise ValueError(f"evaluate_batch_size: got {batch_size}; expected at least 1")

    def evaluate(params: PyTree, split: Examples) -> dict[str, Array]:
        model = eqx.nn.inference_mode(eqx.combine(params, static))
        size = len(split.inputs)
        width = -(-min(batch_size, size) // layout.batch) * layout.batch

        def one(x, y):
            return task.statistics(model(x), y)

        def add_batch(sums, start):
            indices = layout.share(start + jnp.arange(width))
            statistics = jax.vmap(one)(*take(split, jnp.minimum(indices, size - 1)))
            weight = (indices < size).astype(jnp.float32)
            new = jax.tree.map(lambda s: jnp.tensordot(weight, s, axes=1), statistics)
            return jax.tree.map(jnp.add, sums, new), None

        example = jax.eval_shape(
            lambda s: one(*jax.tree.map(lambda v: v[0], take(s, jnp.arange(1)))), split
        )
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), example)
        sums, _ = jax.lax.scan(add_batch, zeros, jnp.arange(0, size, width))
        each = size / layout.batch  # examples a device: the mean of these means is that of all
        return layout.mean(jax.tree.map(lambda s: s / each, sums))

    return evaluate
