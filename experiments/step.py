"""One training step, pure: (state, batches) → (state, statistics); and many in one dispatch."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Int, Integer, PRNGKeyArray, PyTree

from experiments.batches import Examples, batch_indices, take
from experiments.devices import ALONE, Layout
from ssm.init import named_key
from tasks.base import AbstractTask

Mixing = Literal["none", "joint", "alternate"]


class TrainState(eqx.Module):
    """What a training step changes.

    Attributes:
        params: the trainable arrays of the model.
        opt_state: of the optimiser.
        step: steps taken.
        failed: whether the next step gave a non-finite loss or gradient; `params` and `opt_state`
            are then those before it (in "alternate" mixing, those before the half that failed).
    """

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]
    failed: Bool[Array, ""]


class Streams(eqx.Module):
    """Training data on the device, and how much of each stream makes up a step."""

    train: Examples
    auxiliary: Examples | None
    batch_size: int = eqx.field(static=True)
    auxiliary_batch_size: int = eqx.field(static=True)

    def batches(self, key: PRNGKeyArray, step: Int[Array, ""]) -> tuple[Examples, Examples | None]:
        """The batches of a step: a pure function of the seed's key and the step."""

        def batch(examples: Examples, name: str, size: int) -> Examples:
            indices = batch_indices(named_key(key, name), step, len(examples.inputs), size)
            return take(examples, indices)

        auxiliary = None
        if self.auxiliary is not None:
            auxiliary = batch(self.auxiliary, "auxiliary", self.auxiliary_batch_size)
        return batch(self.train, "train", self.batch_size), auxiliary


def make_step(
    task: AbstractTask,
    static: PyTree,
    optimizer: optax.GradientTransformation,
    mixing: Mixing,
    layout: Layout = ALONE,
) -> Callable[
    [TrainState, Examples, Examples | None, PRNGKeyArray], tuple[TrainState, dict[str, Array]]
]:
    """The pure training step of a model on a task.

    With an auxiliary stream, `mixing` is "joint": one optimiser step on the sum of the two mean
    losses; or "alternate": one step on the main batch, then one on the auxiliary batch. "none" has
    no auxiliary stream.

    Arguments:
        static: the model's part that is not trained (`equinox.partition`).
        layout: how the examples of a batch are dealt out to devices.

    Returns:
        step(state, batch, auxiliary batch, key) → (state, mean statistics of the main batch).
    """

    def mean_loss(params, batch, key):
        model = eqx.combine(params, static)

        def one(x, y, k):
            outputs = model(x, key=k)
            return task.loss(outputs, y), task.statistics(outputs, y)

        keys = jr.split(key, len(batch.inputs))
        losses, statistics = jax.vmap(one)(*layout.share((batch.inputs, batch.targets, keys)))
        means = jax.tree.map(lambda s: jnp.mean(s, axis=0), statistics)
        return jnp.mean(losses), means

    def joint_loss(params, batch, auxiliary, key):
        loss, means = mean_loss(params, batch, named_key(key, "train"))
        if auxiliary is not None:
            loss += mean_loss(params, auxiliary, named_key(key, "auxiliary"))[0]
        return loss, means

    def descend(state, batch, auxiliary, key):
        (loss, means), grads = layout.mean(
            jax.value_and_grad(joint_loss, has_aux=True)(state.params, batch, auxiliary, key)
        )
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes its integer count with floats
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        # A sum is not finite if an entry is not; unlike a norm it needs no pass over squares.
        sums = jax.tree.map(lambda g: jnp.isfinite(jnp.sum(g)), grads)
        finite = jax.tree.reduce(jnp.logical_and, sums, jnp.isfinite(loss) & ~state.failed)

        def keep(new, old):
            return jnp.where(finite, new, old)

        return TrainState(
            jax.tree.map(keep, optax.apply_updates(state.params, updates), state.params),
            jax.tree.map(keep, opt_state, state.opt_state),
            state.step,
            ~finite,
        ), means

    def step(state, batch, auxiliary, key):
        if mixing == "alternate":
            state, means = descend(state, batch, None, named_key(key, "first"))
            state, _ = descend(state, auxiliary, None, named_key(key, "second"))
        else:
            state, means = descend(state, batch, auxiliary, key)
        taken = jnp.where(state.failed, state.step, state.step + 1)
        return eqx.tree_at(lambda s: s.step, state, taken), means

    return step


def advance(
    step: Callable, state: TrainState, streams: Streams, seed: Integer[Array, ""], n: Int[Array, ""]
) -> tuple[TrainState, dict[str, Array]]:
    """`n` steps of one seed in one loop on the device, or fewer if a step fails.

    `n` is traced: any number of steps runs the same program, and how steps are grouped into
    dispatches changes no number.

    Returns:
        The state, and the statistics averaged over the steps taken.
    """
    key = jr.key(seed)

    def body(carry):
        i, state, sums = carry
        batch, auxiliary = streams.batches(key, state.step)
        state, means = step(state, batch, auxiliary, jr.fold_in(named_key(key, "step"), state.step))
        return i + 1, state, jax.tree.map(jnp.add, sums, means)

    batch, auxiliary = jax.eval_shape(streams.batches, key, state.step)
    shapes = jax.eval_shape(step, state, batch, auxiliary, key)[1]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    taken, state, sums = jax.lax.while_loop(
        lambda carry: (carry[0] < n) & ~carry[1].failed, body, (jnp.zeros_like(n), state, zeros)
    )
    return state, jax.tree.map(lambda s: s / jnp.maximum(taken, 1).astype(s.dtype), sums)
