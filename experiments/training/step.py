"""One training step, pure: (state, batches) → (state, statistics); and many in one dispatch."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Int, Integer, PRNGKeyArray, PyTree

from experiments.training.batches import Examples, batch_indices, take
from experiments.training.devices import ALONE, Layout
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
        culprit: where: the index of the first leaf of `params` whose gradient was not finite; −1
            for the loss.
    """

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]
    failed: Bool[Array, ""]
    culprit: Int[Array, ""]

    @classmethod
    def first(cls, params: PyTree, opt_state: PyTree) -> "TrainState":
        """Before any step."""
        return cls(params, opt_state, jnp.int32(0), jnp.array(False), jnp.int32(-1))


class Progress(eqx.Module):
    """What a dispatch changes: the training, and what is to be told of it.

    Attributes:
        state: of the training.
        sums: statistics of the batches, summed over the steps since the last evaluation.
        count: how many steps those are.
    """

    state: TrainState
    sums: dict[str, Array]
    count: Int[Array, ""]


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
        fine = jnp.stack([jnp.isfinite(jnp.sum(g)) for g in jax.tree.leaves(grads)])
        finite = jnp.isfinite(loss) & jnp.all(fine) & ~state.failed
        worst = jnp.where(jnp.isfinite(loss), jnp.argmin(fine).astype(jnp.int32), -1)

        def keep(new, old):
            return jnp.where(finite, new, old)

        return TrainState(
            jax.tree.map(keep, optax.apply_updates(state.params, updates), state.params),
            jax.tree.map(keep, opt_state, state.opt_state),
            state.step,
            ~finite,
            jnp.where(finite | state.failed, state.culprit, worst),
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


def start(
    step: Callable, state: TrainState, streams: Streams, seed: Integer[Array, ""]
) -> Progress:
    """The progress before any step: statistics of the shapes that `step` gives, all zero."""
    key = jr.key(seed)
    batch, auxiliary = jax.eval_shape(streams.batches, key, state.step)
    shapes = jax.eval_shape(step, state, batch, auxiliary, key)[1]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return Progress(state, zeros, jnp.zeros_like(state.step))


def advance(
    step: Callable,
    every: int,
    progress: Progress,
    streams: Streams,
    seed: Integer[Array, ""],
    n: Int[Array, ""],
) -> tuple[Progress, dict[str, Array]]:
    """`n` steps of one seed in one loop on the device, or fewer if a step fails.

    `n` is traced: any number of steps runs the same program, and how steps are grouped into
    dispatches changes no number of the progress.

    Arguments:
        every: the sums begin anew at multiples of so many steps.

    Returns:
        The progress, and the statistics averaged over the steps taken here.
    """
    key = jr.key(seed)

    def body(carry):
        i, progress, here = carry
        state = progress.state
        batch, auxiliary = streams.batches(key, state.step)
        new, means = step(state, batch, auxiliary, jr.fold_in(named_key(key, "step"), state.step))
        first, taken = state.step % every == 0, ~new.failed

        def add(sums, mean):
            return jnp.where(first, 0, sums) + jnp.where(taken, mean, 0)

        sums = jax.tree.map(add, progress.sums, means)
        count = jnp.where(first, 0, progress.count) + taken.astype(jnp.int32)
        return i + 1, Progress(new, sums, count), jax.tree.map(jnp.add, here, means)

    zeros = jax.tree.map(jnp.zeros_like, progress.sums)
    taken, progress, here = jax.lax.while_loop(
        lambda carry: (carry[0] < n) & ~carry[1].state.failed,
        body,
        (jnp.zeros_like(n), progress, zeros),
    )
    return progress, jax.tree.map(lambda s: s / jnp.maximum(taken, 1).astype(s.dtype), here)
