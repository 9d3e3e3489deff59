"""The selective scan in blocks that fit a processor's cache, with a derivative of its own.

The recurrence h_t = exp(Δ_t A) ⊙ h_{t−1} + k_t v_tᵀ, y_t = q_tᵀ h_t has no sum in it that crosses
channels, states or examples until y, so that any block of them can be scanned alone. A step works
on a block of a few examples, a few states and all channels, about STEP numbers, with the channels
innermost. Forward, a step's states are used and forgotten; the state every `chunk` steps is kept.
Backward, chunk by chunk from the last, the states of one chunk are recomputed and the adjoint

    g_t = q_t ∂y_tᵀ + exp(Δ_{t+1} A) ⊙ g_{t+1}

runs against time; with P_t = g_t ⊙ h_{t−1} ⊙ exp(Δ_t A) the derivatives are

    ∂v_t = g_tᵀ k_t,   ∂Δ_t = Σ_n P_t A,   ∂A = Σ_t P_t Δ_t,   ∂k_t = g_t v_t,   ∂q_t = h_t ∂y_t.

A `vmap` over examples that share A is one call on the batch, not a batch of calls: which examples
make up a block is chosen here.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssm.batching import batch_aware
from ssm.recurrence import Recurrence, zero_state
from ssm.scans.parallel import check_chunk
from ssm.scans.sequential import last_state

CHUNK, LONG_CHUNK, LONG = 8, 32, 256
"""Steps between the states that are kept, and the same for sequences longer than LONG: less memory
there, for no more time."""

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


def _plan(chunk: int, batch: int, length: int, d_state: int, d_model: int) -> _Plan:
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


def _blocks_of_states(h: Array, plan: _Plan) -> Array:
    """(examples, d_state, d_model) → (blocks, *examples, states, d_model)."""
    h = jnp.moveaxis(_split(h, 1, plan.blocks, plan.states), 1, 0)
    return h[:, 0] if plan.examples == 1 else h


def _join_blocks_of_states(h: Array, plan: _Plan, d_state: int) -> Array:
    """The inverse of `_blocks_of_states`."""
    h = jnp.moveaxis(h[:, None] if plan.examples == 1 else h, 0, 1)
    return h.reshape(len(h), -1, h.shape[-1])[:, :d_state]


def _coefficients(a, v, delta, k):
    """exp(Δ A) and k vᵀ, (…, states, d_model), from a (states, d_model)."""
    decay = jnp.exp(_over_states(delta) * _over_leading(a, delta))
    return decay, _over_states(v) * _over_channels(k)


def _forward_block(unroll, a, h0, v, delta, k, q):
    """y of one block of states, and the state before each chunk."""

    def step(h, inputs):
        v_t, delta_t, k_t, q_t = inputs
        decay, drive = _coefficients(a, v_t, delta_t, k_t)
        h = decay * h + drive
        return h, jnp.sum(h * _over_channels(q_t), axis=-2)

    def chunk(h, inputs):
        after, y = jax.lax.scan(step, h, inputs, unroll=unroll)
        return after, (h, y)

    _, (before, y) = jax.lax.scan(chunk, h0, (v, delta, k, q))
    return y, before


def _backward_block(unroll, a, v, delta, k, q, before, dy):
    """The derivatives (∂A, ∂h_0, (∂v, ∂Δ, ∂k, ∂q)) of one block of states."""

    def chunk(carry, inputs):
        g, da = carry
        v_c, delta_c, k_c, q_c, h0, dy_c = inputs
        decay, drive = _coefficients(a, v_c, delta_c, k_c)
        _, h = jax.lax.scan(lambda h, e: (e[0] * h + e[1],) * 2, h0, (decay, drive), unroll=unroll)

        def adjoint(g, inputs):
            decay_t, q_t, dy_t = inputs
            g = g + _over_states(dy_t) * _over_channels(q_t)
            return decay_t * g, g

        g, all_g = jax.lax.scan(adjoint, g, (decay, q_c, dy_c), reverse=True, unroll=unroll)
        p = all_g * jnp.concatenate([h0[None], h[:-1]]) * decay
        rate = jnp.sum(p * _over_states(delta_c), axis=tuple(range(p.ndim - 2)))
        return (g, da + rate), (
            jnp.einsum("...nd,...n->...d", all_g, k_c),
            jnp.sum(p * _over_leading(a, v_c), axis=-2),
            jnp.einsum("...nd,...d->...n", all_g, v_c),
            jnp.einsum("...nd,...d->...n", h, dy_c),
        )

    start = (jnp.zeros_like(before[0]), jnp.zeros_like(a))
    (g, da), others = jax.lax.scan(chunk, start, (v, delta, k, q, before, dy), reverse=True)
    return da, g, others


def _blocks_of_a(a: Array, plan: _Plan) -> Array:
    """(d_state, d_model) → (blocks, states, d_model)."""
    return _split(a, 0, plan.blocks, plan.states)


def _forward(chunk, from_zero, a, h0, v, delta, k, q):
    """y and the states before each chunk, of a batch."""
    batch, length, d_model = v.shape
    plan = _plan(chunk, batch, length, len(a), d_model)
    a_blocks = _blocks_of_a(a, plan)

    def group(inputs):
        h0, (v, delta, k, q) = inputs[0], (_time_first(x, plan) for x in inputs[1:])

        def block(y, inputs):
            a, k, q, *start = inputs
            h0 = jnp.zeros((*v.shape[2:-1], *a.shape), v.dtype) if from_zero else start[0]
            part, before = _forward_block(plan.unroll, a, h0, v, delta, k, q)
            return y + part, before

        blocks = (a_blocks, _state_blocks(k, plan), _state_blocks(q, plan))
        starts = () if from_zero else (_blocks_of_states(h0, plan),)
        y, before = jax.lax.scan(block, jnp.zeros_like(v), (*blocks, *starts))
        return _time_last(y, plan, length), before

    groups = tuple(_split(x, 0, plan.groups, plan.examples) for x in (h0, v, delta, k, q))
    y, before = jax.lax.map(group, groups)
    return y.reshape(-1, length, d_model)[:batch], before


def _backward(chunk, from_zero, a, v, delta, k, q, before, dy):
    """The derivatives with respect to a, h_0, v, Δ, k and q, of a batch."""
    batch, length, d_model = v.shape
    d_state = len(a)
    plan = _plan(chunk, batch, length, d_state, d_model)
    a_blocks = _blocks_of_a(a, plan)

    def group(da, inputs):
        v, delta, k, q, dy = (_time_first(x, plan) for x in inputs[:-1])

        def block(carry, inputs):
            a, k, q, before = inputs
            da, dh0, (dv, d_delta, dk, dq) = _backward_block(
                plan.unroll, a, v, delta, k, q, before, dy
            )
            dh0 = dh0[..., :0, :] if from_zero else dh0
            return (carry[0] + dv, carry[1] + d_delta), (da, dh0, dk, dq)

        blocks = (a_blocks, _state_blocks(k, plan), _state_blocks(q, plan), inputs[-1])
        zero = jnp.zeros_like(v)
        (dv, d_delta), (da_group, dh0, dk, dq) = jax.lax.scan(block, (zero, zero), blocks)
        return da + da_group, (
            _join_blocks_of_states(dh0, plan, d_state),
            _time_last(dv, plan, length),
            _time_last(d_delta, plan, length),
            _time_last(_join_state_blocks(dk, d_state), plan, length),
            _time_last(_join_state_blocks(dq, d_state), plan, length),
        )

    groups = tuple(_split(x, 0, plan.groups, plan.examples) for x in (v, delta, k, q, dy))
    da, others = jax.lax.scan(group, jnp.zeros_like(a_blocks), (*groups, before))
    da = da.reshape(-1, d_model)[:d_state]
    padded = plan.groups * plan.examples
    return da, *(x.reshape(padded, *x.shape[2:])[:batch] for x in others)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _batch_scan(chunk, from_zero, a, h0, v, delta, k, q):
    return (_forward(chunk, from_zero, a, h0, v, delta, k, q)[0],)


def _batch_scan_fwd(chunk, from_zero, a, h0, v, delta, k, q):
    y, before = _forward(chunk, from_zero, a, h0, v, delta, k, q)
    return (y,), (a, v, delta, k, q, before)


def _batch_scan_bwd(chunk, from_zero, kept, derivatives):
    return _backward(chunk, from_zero, *kept, *derivatives)


_batch_scan.defvjp(_batch_scan_fwd, _batch_scan_bwd)


_scan = batch_aware(_batch_scan, static=2, shared=1)


def blocked(
    r: Recurrence, h0: Float[Array, "n m"] | None, *, chunk: int | None = None
) -> tuple[Float[Array, "length m"], Float[Array, "n m"]]:
    """y_1 … y_L and h_L of a recurrence with `Decay` transitions, key, value and query.

    There are derivatives by reverse mode; forward mode is for the plain forms. The last state is a
    computation of its own, which `jax.jit` leaves out where it is not used.

    Arguments:
        h0: the state before; None for zero, which is less work.
        chunk: steps between the states that are kept; None chooses by the length.

    Raises:
        ValueError: unless chunk is positive.
    """
    delta, rate = r.transition.delta, r.transition.rate.value
    if chunk is None:
        chunk = LONG_CHUNK if len(delta) > LONG else CHUNK
    check_chunk(chunk)
    # In a step that is filled up Δ is 0, and 0·∞ would be NaN.
    rate = jnp.maximum(rate, jnp.finfo(rate.dtype).min)
    start = jnp.zeros((0, rate.shape[1]), rate.dtype) if h0 is None else h0
    (y,) = _scan(chunk, h0 is None, rate, start, r.value, delta, r.key, r.query)
    return y, last_state(r, zero_state(r) if h0 is None else h0)
