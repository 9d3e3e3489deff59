"""The selective scan of Mamba (S6): a diagonal recurrence whose Δ, B and C depend on the input.

    h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t x_t,      y_t = C_t · h_t + D x_t

for each of d_model channels, with d_state numbers of state a channel (Gu and Dao, 2023, §3). As a
linear CDE: ω = ∫ Δ ds and ξ = ∫ Δ x ds, per channel.

The states of a whole sequence, (length, d_model, d_state), are never stored. The channels, which do
not interact, are visited in blocks that fit the cache; the sequence of a block is cut into chunks,
and the backward pass keeps the state at chunk boundaries only and recomputes within a chunk. Inside
a chunk the recurrence is an associative scan, or, on a CPU, where depth costs nothing, the same
recurrence step by step (`scripts/benchmark.py` measures both).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssm import recurrence
from ssm.discretise import exponential_euler

CHUNK = 8
"""Steps a chunk: the states kept are length/CHUNK, those recomputed at a time CHUNK."""

CPU_BLOCK = 1024
"""Numbers of state in a block of channels, for a sequence of several chunks on a CPU; otherwise all
channels are one block."""


def selective_scan_step(
    h: Float[Array, "d_model d_state"],
    x: Float[Array, "d_model"],
    delta: Float[Array, "d_model"],
    a: Float[Array, "d_model d_state"],
    b: Float[Array, "d_state"],
    c: Float[Array, "d_state"],
    d: Float[Array, "d_model"],
) -> tuple[Float[Array, "d_model d_state"], Float[Array, "d_model"]]:
    """One step of the recurrence: (h_{t−1}, x_t, …) ↦ (h_t, y_t)."""
    a_bar, b_bar = exponential_euler(a, delta[:, None])
    h = a_bar * h + (b_bar * x[:, None]) * b[None, :]
    return h, h @ c + d * x


def selective_scan_sequential(
    x: Float[Array, "length d_model"],
    delta: Float[Array, "length d_model"],
    a: Float[Array, "d_model d_state"],
    b: Float[Array, "length d_state"],
    c: Float[Array, "length d_state"],
    d: Float[Array, "d_model"],
) -> Float[Array, "length d_model"]:
    """`selective_scan`, one step after the other: the readable oracle."""

    def step(h, inputs):
        x_t, delta_t, b_t, c_t = inputs
        return selective_scan_step(h, x_t, delta_t, a, b_t, c_t, d)

    return jax.lax.scan(step, jnp.zeros_like(a), (x, delta, b, c))[1]


def selective_scan(
    x: Float[Array, "length d_model"],
    delta: Float[Array, "length d_model"],
    a: Float[Array, "d_model d_state"],
    b: Float[Array, "length d_state"],
    c: Float[Array, "length d_state"],
    d: Float[Array, "d_model"],
    *,
    chunk: int = CHUNK,
    block: int | None = None,
    form: str | None = None,
) -> Float[Array, "length d_model"]:
    """y of the selective recurrence above, for one sequence.

    Arguments:
        x: input.
        delta: steps Δ_t > 0, one a channel and position.
        a: the diagonals of A, negative for a stable recurrence.
        b, c: input and output vectors, shared by the channels of a position.
        d: skip connection.
        chunk: steps a chunk.
        block: channels visited at a time; None chooses by the backend.
        form: how a chunk is solved, "associative" or "sequential"; None chooses by the backend.

    Returns:
        y, of the shape of x.

    Raises:
        ValueError: if chunk or block is not positive, or form is neither.
    """
    d_model, d_state = a.shape
    on_cpu = jax.default_backend() == "cpu"
    if block is None:
        long = on_cpu and x.shape[0] > chunk
        block = max(1, min(d_model, CPU_BLOCK // d_state)) if long else d_model
    if form is None:
        form = "sequential" if on_cpu else "associative"
    if chunk < 1 or block < 1:
        raise ValueError(f"chunk, block: got {chunk}, {block}; expected positive numbers")
    if form not in ("associative", "sequential"):
        raise ValueError(f"form: got {form!r}; expected 'associative' or 'sequential'")
    blocks = -(-d_model // block)
    if blocks == 1:
        return _scan_in_chunks(x, delta, a, b, c, chunk, form) + d[None] * x

    def split(v):  # (length, d_model) -> (blocks, length, block)
        v = jnp.pad(v, ((0, 0), (0, blocks * block - d_model)))
        return v.reshape(v.shape[0], blocks, block).swapaxes(0, 1)

    a_blocks = jnp.pad(a, ((0, blocks * block - d_model), (0, 0))).reshape(blocks, block, d_state)
    y = jax.lax.map(
        lambda part: _scan_in_chunks(part[0], part[1], part[2], b, c, chunk, form),
        (split(x), split(delta), a_blocks),
    )
    return y.swapaxes(0, 1).reshape(x.shape[0], blocks * block)[:, :d_model] + d[None] * x


def _scan_in_chunks(x, delta, a, b, c, chunk, form):
    """C_t · h_t for one block of channels, chunk by chunk."""
    length = x.shape[0]
    whole = length <= chunk

    def solve(a_bar, drive, h):
        if form == "associative":
            return recurrence.associative(a_bar, drive, h)
        return recurrence.sequential(a_bar, drive, h, unroll=whole)

    def scan_chunk(h, inputs):
        x_c, delta_c, b_c, c_c = inputs
        a_bar, b_bar = exponential_euler(a[None], delta_c[:, :, None])
        drive = (b_bar * x_c[:, :, None]) * b_c[:, None, :]
        states = solve(a_bar, drive, h)
        return states[-1], jnp.einsum("ldn,ln->ld", states, c_c)

    h0 = jnp.zeros_like(a)
    if whole:
        return scan_chunk(h0, (x, delta, b, c))[1]
    chunks = -(-length // chunk)

    def split(v):  # zeros in the padding: Δ = 0 makes each added step the identity
        v = jnp.pad(v, ((0, chunks * chunk - length), (0, 0)))
        return v.reshape(chunks, chunk, v.shape[1])

    inputs = (split(x), split(delta), split(b), split(c))
    _, y = jax.lax.scan(jax.checkpoint(scan_chunk), h0, inputs)
    return y.reshape(chunks * chunk, -1)[:length]
