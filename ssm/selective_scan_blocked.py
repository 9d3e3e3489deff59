"""The selective scan in blocks that fit a processor's cache, with a derivative of its own.

The recurrence h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t x_t, y_t = C_t · h_t has no sum in it that crosses
channels, states or examples until y, so that any block of them can be scanned alone. A step works
on a block of a few examples, a few states and all channels, about STEP numbers, with the channels
innermost. Forward, a step's states are used and forgotten; the state every `chunk` steps is kept.
Backward, chunk by chunk from the last, the states of one chunk are recomputed and the adjoint

    g_t = C_t ∂y_t + exp(Δ_{t+1} A) g_{t+1}

runs against time; with P_t = g_t ⊙ h_{t−1} ⊙ exp(Δ_t A) the derivatives are

    ∂x_t = Δ_t Σ_n g_t B_t,   ∂Δ_t = Σ_n (P_t A + g_t B_t x_t),   ∂A = Σ_t P_t Δ_t,
    ∂B_t = Σ_d g_t Δ_t x_t,   ∂C_t = Σ_d h_t ∂y_t.

A `vmap` over examples that share A is one call on the batch, not a batch of calls: which examples
make up a block is chosen here.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssm.batching import batch_aware

STEP = 16_384
"""Numbers of state that a step works on."""

STATES = 16
"""Most states of a channel in a block; the rest of STEP is examples."""

WHOLE, FEW = 2**19, 32
"""A batch with at most this many numbers of state, over all positions, is one block; its steps are
unrolled if they are so few."""


class _Plan(NamedTuple):
    """How a batch is cut: sizes of a block, and how many blocks cover the batch."""

    examples: int
    states: int
    steps: int
    groups: int
    blocks: int
    chunks: int

    @property
    def unroll(self) -> bool:
        return self.groups == self.blocks == self.chunks == 1 and self.steps <= FEW


def _plan(chunk: int, batch: int, length: int, d_model: int, d_state: int) -> _Plan:
    steps = min(chunk, length)
    chunks = -(-length // steps)
    if chunks == 1 and batch * length * d_model * d_state <= WHOLE:
        return _Plan(batch, d_state, steps, 1, 1, 1)
    blocks = -(-d_state // max(1, min(STATES, STEP // d_model)))
    states = -(-d_state // blocks)
    groups = -(-batch // max(1, STEP // (d_model * states)))
    return _Plan(-(-batch // groups), states, steps, groups, blocks, chunks)


def _split(x: Array, axis: int, parts: int, size: int) -> Array:
    """An axis as `parts` of `size`, filled up with zeros: Δ = 0 makes a step the identity."""
    missing = parts * size - x.shape[axis]
    if missing:
        x = jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
    return x.reshape(*x.shape[:axis], parts, size, *x.shape[axis + 1 :])


def _time_first(x: Array, plan: _Plan) -> Array:
    """(examples, length, d) → (chunks, steps, *examples, d).

    A single example has no axis: XLA's CPU loops with an axis of size 1 are not vectorised (jax
    0.10), and so many times slower.
    """
    x = jnp.moveaxis(_split(x, 1, plan.chunks, plan.steps), 0, 2)
    return x[:, :, 0] if plan.examples == 1 else x


def _time_last(x: Array, plan: _Plan, length: int) -> Array:
    """The inverse of `_time_first`."""
    x = x[:, :, None] if plan.examples == 1 else x
    x = jnp.moveaxis(x, 2, 0)
    return x.reshape(plan.examples, -1, x.shape[-1])[:, :length]


def _state_blocks(b: Array, plan: _Plan) -> Array:
    """(chunks, steps, *examples, d_state) → (blocks, chunks, steps, *examples, states)."""
    return jnp.moveaxis(_split(b, b.ndim - 1, plan.blocks, plan.states), -2, 0)


def _join_state_blocks(b: Array, d_state: int) -> Array:
    """The inverse of `_state_blocks`."""
    b = jnp.moveaxis(b, 0, -2)
    return b.reshape(*b.shape[:-2], -1)[..., :d_state]


def _over_states(x: Array) -> Array:
    """(…, d_model) → (…, states, d_model)."""
    return x[..., None, :]


def _over_channels(b: Array) -> Array:
    """(…, states) → (…, states, d_model)."""
    return b[..., :, None]


def _over_leading(a: Array, x: Array) -> Array:
    """(states, d_model) → (…, states, d_model), as many leading axes as x (…, d_model) has."""
    return jnp.expand_dims(a, range(x.ndim - 1))


def _coefficients(a, x, delta, b):
    """exp(Δ A) and Δ B x, (…, states, d_model), from a (states, d_model)."""
    decay = jnp.exp(_over_states(delta) * _over_leading(a, delta))
    return decay, _over_states(delta * x) * _over_channels(b)


def _forward_block(unroll, a, x, delta, b, c):
    """y of one block of states, and the state before each chunk."""

    def step(h, inputs):
        x_t, delta_t, b_t, c_t = inputs
        decay, drive = _coefficients(a, x_t, delta_t, b_t)
        h = decay * h + drive
        return h, jnp.sum(h * _over_channels(c_t), axis=-2)

    def chunk(h, inputs):
        after, y = jax.lax.scan(step, h, inputs, unroll=unroll)
        return after, (h, y)

    h0 = jnp.zeros((*x.shape[2:-1], *a.shape), x.dtype)
    _, (before, y) = jax.lax.scan(chunk, h0, (x, delta, b, c))
    return y, before


def _backward_block(unroll, a, x, delta, b, c, before, dy):
    """The derivatives (∂A, (∂x, ∂Δ, ∂B, ∂C)) of one block of states."""

    def chunk(carry, inputs):
        g, da = carry
        x_c, delta_c, b_c, c_c, h0, dy_c = inputs
        decay, drive = _coefficients(a, x_c, delta_c, b_c)
        _, h = jax.lax.scan(lambda h, e: (e[0] * h + e[1],) * 2, h0, (decay, drive), unroll=unroll)

        def adjoint(g, inputs):
            decay_t, c_t, dy_t = inputs
            g = g + _over_states(dy_t) * _over_channels(c_t)
            return decay_t * g, g

        g, all_g = jax.lax.scan(adjoint, g, (decay, c_c, dy_c), reverse=True, unroll=unroll)
        p = all_g * jnp.concatenate([h0[None], h[:-1]]) * decay
        along_b = jnp.einsum("...nd,...n->...d", all_g, b_c)
        rate = jnp.sum(p * _over_states(delta_c), axis=tuple(range(p.ndim - 2)))
        return (g, da + rate), (
            delta_c * along_b,
            jnp.sum(p * _over_leading(a, x_c), axis=-2) + x_c * along_b,
            jnp.einsum("...nd,...d->...n", all_g, delta_c * x_c),
            jnp.einsum("...nd,...d->...n", h, dy_c),
        )

    start = (jnp.zeros_like(before[0]), jnp.zeros_like(a))
    (_, da), others = jax.lax.scan(chunk, start, (x, delta, b, c, before, dy), reverse=True)
    return da, others


def _blocks_of_a(a: Array, plan: _Plan) -> Array:
    """(d_model, d_state) → (blocks, states, d_model)."""
    return _split(a.T, 0, plan.blocks, plan.states)


def _forward(chunk, a, x, delta, b, c):
    """y and the states before each chunk, of a batch."""
    batch, length, d_model = x.shape
    plan = _plan(chunk, batch, length, d_model, a.shape[1])
    a_blocks = _blocks_of_a(a, plan)

    def group(inputs):
        x, delta, b, c = (_time_first(v, plan) for v in inputs)

        def block(y, inputs):
            a, b, c = inputs
            part, before = _forward_block(plan.unroll, a, x, delta, b, c)
            return y + part, before

        blocks = (a_blocks, _state_blocks(b, plan), _state_blocks(c, plan))
        y, before = jax.lax.scan(block, jnp.zeros_like(x), blocks)
        return _time_last(y, plan, length), before

    groups = tuple(_split(v, 0, plan.groups, plan.examples) for v in (x, delta, b, c))
    y, before = jax.lax.map(group, groups)
    return y.reshape(-1, length, d_model)[:batch], before


def _backward(chunk, a, x, delta, b, c, before, dy):
    """The derivatives with respect to a, x, Δ, b and c, of a batch."""
    batch, length, d_model = x.shape
    d_state = a.shape[1]
    plan = _plan(chunk, batch, length, d_model, d_state)
    a_blocks = _blocks_of_a(a, plan)

    def group(da, inputs):
        x, delta, b, c, dy = (_time_first(v, plan) for v in inputs[:-1])

        def block(carry, inputs):
            a, b, c, before = inputs
            da, (dx, d_delta, db, dc) = _backward_block(plan.unroll, a, x, delta, b, c, before, dy)
            return (carry[0] + dx, carry[1] + d_delta), (da, db, dc)

        blocks = (a_blocks, _state_blocks(b, plan), _state_blocks(c, plan), inputs[-1])
        zero = jnp.zeros_like(x)
        (dx, d_delta), (da_group, db, dc) = jax.lax.scan(block, (zero, zero), blocks)
        return da + da_group, (
            _time_last(dx, plan, length),
            _time_last(d_delta, plan, length),
            _time_last(_join_state_blocks(db, d_state), plan, length),
            _time_last(_join_state_blocks(dc, d_state), plan, length),
        )

    groups = tuple(_split(v, 0, plan.groups, plan.examples) for v in (x, delta, b, c, dy))
    da, others = jax.lax.scan(group, jnp.zeros_like(a_blocks), (*groups, before))
    da = da.reshape(-1, d_model)[:d_state].T
    return da, *(v.reshape(-1, *v.shape[2:])[:batch] for v in others)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _batch_scan(chunk, a, x, delta, b, c):
    return _forward(chunk, a, x, delta, b, c)[0]


def _batch_scan_fwd(chunk, a, x, delta, b, c):
    y, before = _forward(chunk, a, x, delta, b, c)
    return y, (a, x, delta, b, c, before)


def _batch_scan_bwd(chunk, kept, dy):
    a, x, delta, b, c, before = kept
    return _backward(chunk, a, x, delta, b, c, before, dy)


_batch_scan.defvjp(_batch_scan_fwd, _batch_scan_bwd)


_scan = batch_aware(_batch_scan, static=1, shared=1)


def blocked_scan(
    x: Float[Array, "length d_model"],
    delta: Float[Array, "length d_model"],
    a: Float[Array, "d_model d_state"],
    b: Float[Array, "length d_state"],
    c: Float[Array, "length d_state"],
    *,
    chunk: int,
) -> Float[Array, "length d_model"]:
    """C_t · h_t of the selective recurrence, for one sequence (see the module).

    Reverse-mode derivatives only: `jax.jvp` raises a TypeError, as for any `jax.custom_vjp`.

    Arguments:
        x, delta, a, b, c: as in `ssm.selective_scan.selective_scan`.
        chunk: steps between the states that are kept.
    """
    return _scan(chunk, a, x, delta, b, c)
